//! The code of texts in headers (RFC 7541, section 5.2 and appendix B).

use std::sync::LazyLock;

/// Bits of each symbol's code, the last symbol being the end. The code is canonical: codes of one
/// length are numbered in the order of their symbols.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// The symbol that ends a text, and must not appear in one.
const END: usize = 256;

/// What four more bits lead to.
#[derive(Clone, Copy)]
struct Step {
    /// The node of the tree that they lead to.
    next: u8,
    /// The symbol on the way, if there is one: no code is shorter than five bits.
    symbol: Option<u8>,
    /// No text leads here.
    fails: bool,
}

/// The tree of codes, walked by four bits at once.
struct Walk {
    steps: Vec<[Step; 16]>,
    /// At which nodes a text may end: only ones, and less than a byte of them, lead there.
    ends: Vec<bool>,
}

static WALK: LazyLock<Walk> = LazyLock::new(Walk::new);

#[derive(Clone, Copy)]
enum Branch {
    None,
    Node(usize),
    Leaf(usize),
}

impl Walk {
    fn new() -> Self {
        let tree = tree();
        let steps = (0..tree.len()).map(|node| {
            let mut row = [Step {
                next: 0,
                symbol: None,
                fails: false,
            }; 16];
            for (bits, step) in row.iter_mut().enumerate() {
                let mut at = node;
                for place in (0..4).rev() {
                    match tree[at][bits >> place & 1] {
                        Branch::Node(next) => at = next,
                        Branch::Leaf(symbol) if symbol != END => {
                            step.symbol = u8::try_from(symbol).ok();
                            at = 0;
                        }
                        Branch::Leaf(_) | Branch::None => step.fails = true,
                    }
                }
                // A tree of 257 leaves has 256 nodes.
                step.next = u8::try_from(at).unwrap_or_default();
            }
            row
        });
        let steps = steps.collect();
        let mut ends = vec![false; tree.len()];
        let mut at = 0;
        for _ in 0..8 {
            ends[at] = true;
            if let Branch::Node(next) = tree[at][1] {
                at = next;
            }
        }
        Self { steps, ends }
    }
}

fn tree() -> Vec<[Branch; 2]> {
    let mut order: Vec<usize> = (0..LENGTHS.len()).collect();
    order.sort_by_key(|&symbol| LENGTHS[symbol]);
    let mut tree = vec![[Branch::None; 2]];
    let (mut code, mut length) = (0_u32, LENGTHS[order[0]]);
    for symbol in order {
        code <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        let mut at = 0;
        for place in (0..length).rev() {
            let bit = (code >> place & 1) as usize;
            if place == 0 {
                tree[at][bit] = Branch::Leaf(symbol);
            } else if let Branch::Node(next) = tree[at][bit] {
                at = next;
            } else {
                tree.push([Branch::None; 2]);
                let fresh = tree.len() - 1;
                tree[at][bit] = Branch::Node(fresh);
                at = fresh;
            }
        }
        code += 1;
    }
    tree
}

/// Appends a text to `out`; false if the code is broken.
pub(crate) fn decode(code: &[u8], out: &mut Vec<u8>) -> bool {
    let walk = &*WALK;
    let mut at = 0;
    for byte in code {
        for bits in [byte >> 4, byte & 15] {
            let step = walk.steps[usize::from(at)][usize::from(bits)];
            if step.fails {
                return false;
            }
            out.extend(step.symbol);
            at = step.next;
        }
    }
    walk.ends[usize::from(at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(hex: &str) -> Option<String> {
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).expect("hex"))
            .collect();
        let mut out = Vec::new();
        decode(&bytes, &mut out).then(|| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 7541, appendix C.4 and C.6.
        for (hex, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            (
                "d07abe941054d444a8200595040b8166e082a62d1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (
                "9d29ad171863c78f0b97c8e9ae82ae43d3",
                "https://www.example.com",
            ),
            ("", ""),
        ] {
            assert_eq!(decoded(hex).as_deref(), Some(text));
        }
    }

    #[test]
    fn padding_is_of_ones_and_shorter_than_a_byte() {
        // `a` is 00011.
        assert_eq!(decoded("1f").as_deref(), Some("a"));
        for broken in ["1e", "1fff", "18", "ffffffff", "fffffffc"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }
}
