//! Random numbers for load spreading: fast, seeded, and of no use to cryptography.

/// The step of the generator's counter: 2^64 divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A `SplitMix64` generator (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014): every 64-bit number once per 2^64 draws, any seed is a good seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose draws depend on nothing but `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next draw, uniform over all 64-bit numbers.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless iterator would return Some"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }
}

/// A share of all calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(u64::MAX);

    /// So many percent; `None` if that is not between 0 and 100.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number between 0 and 2^64"
    )]
    pub fn percent(percent: f64) -> Option<Self> {
        let parts = (percent / 100.0 * u64::MAX as f64) as u64;
        (0.0..=100.0).contains(&percent).then_some(Self(parts))
    }

    /// Whether one that drew this number is among them.
    #[must_use]
    pub fn holds(self, random: u64) -> bool {
        self == Self::ALL || random < self.0
    }

    /// The share in percent, for people to read.
    #[must_use]
    pub fn as_percent(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let share = self.0 as f64 / u64::MAX as f64;
        (share * 100_000.0).round() / 1000.0
    }
}

/// Scatters the bits of a number so that similar numbers give unlike ones. A bijection.
#[must_use]
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps a uniform 64-bit draw to a number below `bound`; 0 if that is 0. No number is favoured
/// by more than `bound` / 2^64.
#[must_use]
pub(crate) fn below(draw: u64, bound: u64) -> u64 {
    let scaled = (u128::from(draw) * u128::from(bound)) >> 64;
    // A product of two 64-bit numbers, shifted by 64, has 64 bits.
    scaled as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_published_generator() {
        // The reference implementation's output for seed 1234567.
        let mut rng = Rng::new(1_234_567);
        let draws = [rng.next(), rng.next(), rng.next()];
        assert_eq!(
            draws,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn below_stays_below_and_reaches_both_ends() {
        assert_eq!(below(u64::MAX, 0), 0);
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX, u64::MAX), u64::MAX - 1);
        assert_eq!(below(1 << 63, 10), 5);
    }
}
