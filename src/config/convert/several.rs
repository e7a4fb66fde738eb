//! Combined registries: several that are asked as one.

use finback_registry::Several;

use super::{Names, Result, known};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;

/// The name to look services up by: of a registry, or of several that are asked together.
pub(super) fn asked(
    Placed { value, place }: Placed<file::RegistryNames>,
    names: &Names,
) -> Result<String> {
    let (registries, in_order) = match value {
        file::RegistryNames::One(name) => {
            let name = Placed { value: name, place };
            known(&names.registries, "registry", &name)?;
            return Ok(name.value);
        }
        file::RegistryNames::Union(registries) => (registries, false),
        file::RegistryNames::InOrder(file::InOrder { in_order }) => (in_order, true),
    };
    if registries.len() < 2 {
        let message = "a list of registries has two at least; write the name of the one alone";
        return Err(Wrong::at(place, message));
    }
    let mut several = Several {
        registries: Vec::new(),
        in_order,
    };
    for name in registries {
        known(&names.registries, "registry", &name)?;
        if several.registries.contains(&name.value) {
            let message = format!("`{}` is listed twice; write it once", name.value);
            return Err(Wrong::at(name.place, message));
        }
        several.registries.push(name.value);
    }
    let name = several.name();
    if names.registries.contains(&name) {
        let message = format!("`{name}` is the name of a registry of its own; give it another");
        return Err(Wrong::at(place, message));
    }
    names.several.borrow_mut().insert(name.clone(), several);
    Ok(name)
}

/// Whether any of the registries asked by this name keeps services in layouts.
pub(super) fn has_layouts(name: &str, names: &Names) -> bool {
    match names.several.borrow().get(name) {
        Some(several) => {
            let mut all = several.registries.iter();
            all.any(|name| !names.lists.contains(name))
        }
        None => !names.lists.iter().any(|own| own == name),
    }
}
