//! Large values, made where they stay.

/// Makes a value in a box of its own. `Box::new` makes it elsewhere and copies it, which is felt where it is large and one
/// is made for each call.
#[inline(always)]
pub fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    let place = Box::new_uninit();
    Box::write(place, make())
}
