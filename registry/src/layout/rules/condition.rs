//! Conditions of Dubbo's routers: `method=get* & host!=10.0.0.1 => address=10.0.0.2:20880`
//! (Dubbo: ConditionStateRouter, Dubbo: MultiDestConditionRouter, and their matchers).

use finback_core::discovery::{Condition, Pattern, Rule, RuleDestination, Subject};
use finback_core::traffic_rules::{MAX_DESTINATIONS, is_glob};
use serde_json::Value;

use super::matching::text_of;
use crate::layout::LABELS;

/// The share of a destination that states none, or none above 0.
const SHARE: u32 = 100;
/// The attribute of a call that says which application makes it.
pub(super) const CALLER: &str = "remote.application";
/// What stands before a provider's parameter whose name is that of another label.
const PARAMETER: &str = "parameter ";

/// Why a condition is left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Dubbo refuses it, with everything that stands in the same document.
    Invalid(String),
    /// A proxy cannot tell whether it holds.
    Unsupported(String),
}

/// Conditions that all have to hold; `None` if one of them never does.
type Conditions = Option<Vec<Condition>>;

/// The rule of one line; `None` if it never applies.
pub(super) fn read(text: &str, force: bool) -> Result<Option<Rule>, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::Invalid("an empty rule".to_owned()));
    }
    let text = text.replace("consumer.", "").replace("provider.", "");
    // Without an arrow, it is all right side.
    let (when, then) = text.split_once("=>").unwrap_or(("", &text));
    let Some(when) = of_calls(when.trim())? else {
        return Ok(None);
    };
    let then = match then.trim() {
        "" | "false" => Vec::new(),
        then => vec![RuleDestination {
            weight: SHARE,
            conditions: conditions(then, of_provider)?.unwrap_or_default(),
        }],
    };
    Ok(Some(Rule {
        when,
        among: Vec::new(),
        then,
        force,
    }))
}

/// A rule with weighted destinations, as of version 3.1 of the documents; `None` if it never
/// applies.
pub(super) fn read_weighted(condition: &Value, force: bool) -> Result<Option<Rule>, Fault> {
    let invalid = |why: &str| Fault::Invalid(why.to_owned());
    let part = |value: &Value| text_of(value).unwrap_or_default();
    let from = condition
        .get("from")
        .ok_or(invalid("it has no `from`"))?
        .as_object()
        .ok_or(invalid("`from` has no parts"))?;
    let to = condition.get("to").and_then(Value::as_array);
    let to = to.ok_or(invalid("`to` is not a list"))?;
    if to.len() > MAX_DESTINATIONS {
        let why = format!("more than {MAX_DESTINATIONS} destinations");
        return Err(Fault::Unsupported(why));
    }
    let when = from.get("match").map(part).unwrap_or_default();
    let Some(when) = of_calls(when.trim())? else {
        return Ok(None);
    };
    let mut then = Vec::new();
    for to in to {
        let conditions = match part(&to["match"]).trim() {
            "" | "false" => Vec::new(),
            text => conditions(text, of_provider)?.unwrap_or_default(),
        };
        let weight = match text_of(&to["weight"]) {
            Some(text) => text
                .parse::<i64>()
                .map_err(|_| invalid("a weight that is not a number"))?,
            None => i64::from(SHARE),
        };
        let weight = u32::try_from(weight).ok().filter(|weight| *weight > 0);
        then.push(RuleDestination {
            weight: weight.unwrap_or(SHARE),
            conditions,
        });
    }
    Ok(Some(Rule {
        when,
        among: Vec::new(),
        then,
        force,
    }))
}

fn of_calls(text: &str) -> Result<Conditions, Fault> {
    match text {
        "" | "true" => Ok(Some(Vec::new())),
        text => conditions(text, of_call),
    }
}

/// What a word of a condition stands for.
enum Word {
    Of(Subject),
    /// The same in every call.
    Constant(&'static str),
}

/// A word on the left: parameters of the consumer, or of the call.
fn of_call(word: &str) -> Result<Word, Fault> {
    if word.starts_with("attachments") {
        let name = word.strip_prefix("attachments[");
        let name = name.and_then(|rest| rest.strip_suffix(']'));
        // Dubbo cuts the word at its first dot, and finds no name then.
        return match name.filter(|name| !name.is_empty() && !name.contains('.')) {
            Some(name) => Ok(Word::Of(Subject::Attribute(name.to_owned()))),
            None => Err(Fault::Unsupported(format!("`{word}` names no attachment"))),
        };
    }
    if word.starts_with("arguments") {
        let why = "arguments of calls are not read".to_owned();
        return Err(Fault::Unsupported(why));
    }
    Ok(match word {
        "side" | "protocol" => Word::Constant("consumer"),
        "method" | "methods" => Word::Of(Subject::Method),
        "host" => Word::Of(Subject::Source),
        "interface" => Word::Of(Subject::Service),
        "version" => Word::Of(Subject::Version),
        "group" => Word::Of(Subject::Group),
        "application" => Word::Of(Subject::Attribute(CALLER.to_owned())),
        other => Word::Of(Subject::Attribute(other.to_owned())),
    })
}

/// A word on the right: parameters of a provider.
fn of_provider(word: &str) -> Result<Word, Fault> {
    let says_nothing =
        word == "method" || word.starts_with("attachments") || word.starts_with("arguments");
    if says_nothing {
        let why = format!("`{word}` says nothing of a provider");
        return Err(Fault::Unsupported(why));
    }
    Ok(Word::Of(match word {
        "address" => Subject::Address,
        "host" => Subject::Host,
        "port" => Subject::Port,
        parameter => Subject::Label(label_of(parameter)),
    }))
}

/// The label in which rules find a parameter of a provider.
fn label_of(parameter: &str) -> String {
    let differs =
        |(own, label): &(&str, &str)| own != label && (*own == parameter || *label == parameter);
    // `application` is the label of SOFA-RPC's parameter too, but never of both at once.
    if parameter != "application" && LABELS.iter().any(differs) {
        return format!("{PARAMETER}{parameter}");
    }
    parameter.to_owned()
}

/// The parameter that is in a label of rules.
pub(super) fn parameter_of(label: &str) -> &str {
    label.strip_prefix(PARAMETER).unwrap_or(label)
}

/// The labels of providers that a rule asks for.
pub(super) fn labels_of(rule: &Rule) -> impl Iterator<Item = &str> {
    let conditions = rule.then.iter().flat_map(|each| &each.conditions);
    conditions.filter_map(|condition| match &condition.subject {
        Subject::Label(label) => Some(&**label),
        _ => None,
    })
}

/// One word and what it is compared with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pair {
    word: String,
    matches: Vec<String>,
    mismatches: Vec<String>,
}

fn conditions(text: &str, word: impl Fn(&str) -> Result<Word, Fault>) -> Result<Conditions, Fault> {
    let pairs = pairs(text).map_err(Fault::Invalid)?;
    let mut conditions = Vec::new();
    for pair in pairs {
        if pair.matches.is_empty() && pair.mismatches.is_empty() {
            let why = format!("`{}` is compared with nothing", pair.word);
            return Err(Fault::Unsupported(why));
        }
        let subject = word(&pair.word)?;
        for (values, negated) in [(&pair.matches, false), (&pair.mismatches, true)] {
            if values.is_empty() {
                continue;
            }
            match &subject {
                Word::Constant(own) => {
                    if values.iter().any(|value| is_glob(value, own)) == negated {
                        return Ok(None);
                    }
                }
                Word::Of(subject) => conditions.push(Condition {
                    patterns: values
                        .iter()
                        .map(|value| pattern(value, subject))
                        .collect::<Result<_, _>>()?,
                    subject: subject.clone(),
                    negated,
                }),
            }
        }
    }
    Ok(Some(conditions))
}

fn pattern(value: &str, of: &Subject) -> Result<Pattern, Fault> {
    if value.contains('~') {
        return range(value).ok_or_else(|| {
            let why = format!("Dubbo does not understand the range `{value}`");
            Fault::Unsupported(why)
        });
    }
    let of_endpoint = matches!(
        of,
        Subject::Address | Subject::Host | Subject::Port | Subject::Label(_)
    );
    match value.strip_prefix('$') {
        // Only providers are compared with what the consumer says.
        Some(word) if of_endpoint => Ok(match of_call(word)? {
            Word::Of(subject) => Pattern::OfCall(subject),
            Word::Constant(text) => Pattern::Glob(text.to_owned()),
        }),
        _ => Ok(Pattern::Glob(value.to_owned())),
    }
}

/// `1~100` or `~100`. Java's `split` leaves nothing after the `~` of `1~`, so that Dubbo does
/// not read it, whatever its comment says.
fn range(text: &str) -> Option<Pattern> {
    let mut parts = text.split('~');
    let (low, high) = (parts.next()?, parts.next()?);
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).unwrap_or(0)
    };
    match (low, high) {
        (_, "") => None,
        ("", high) => Some(Pattern::Range(i64::MIN, number(high))),
        (low, high) => Some(Pattern::Range(number(low), number(high))),
    }
}

/// The words of a condition: a separator of `&!=,` and what follows it, again and again.
fn pairs(text: &str) -> Result<Vec<Pair>, String> {
    let is_separator = |char: char| matches!(char, '&' | '!' | '=' | ',');
    let mut pairs: Vec<Pair> = Vec::new();
    // The pair that values are for, and whether they are mismatches.
    let mut current: Option<usize> = None;
    let mut negated: Option<bool> = None;
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let after = rest.trim_start_matches(is_separator);
        let separator = &rest[..rest.len() - after.len()];
        let content_at = after.trim_start();
        let end = content_at
            .find(|char: char| is_separator(char) || char.is_whitespace())
            .unwrap_or(content_at.len());
        let (content, tail) = content_at.split_at(end);
        rest = tail.trim_start();
        if content.is_empty() {
            // A separator that another follows is passed over.
            continue;
        }
        let refused = || Err(format!("`{separator}{content}` in `{text}`"));
        match (separator, current) {
            ("" | "&", _) => {
                let known = pairs.iter().position(|pair| pair.word == content);
                if let (Some(at), "") = (known, separator) {
                    pairs[at] = Pair::default();
                    pairs[at].word = content.to_owned();
                }
                current = Some(known.unwrap_or(pairs.len()));
                negated = None;
                if known.is_none() {
                    pairs.push(Pair {
                        word: content.to_owned(),
                        ..Pair::default()
                    });
                }
            }
            ("=" | "!=", Some(at)) => {
                let is_negated = separator == "!=";
                negated = Some(is_negated);
                values(&mut pairs[at], is_negated).push(content.to_owned());
            }
            (",", Some(at)) => match negated {
                Some(negated) => values(&mut pairs[at], negated).push(content.to_owned()),
                None => return refused(),
            },
            _ => return refused(),
        }
    }
    if pairs.is_empty() {
        return Err(format!("`{text}` says nothing"));
    }
    Ok(pairs)
}

fn values(pair: &mut Pair, negated: bool) -> &mut Vec<String> {
    if negated {
        &mut pair.mismatches
    } else {
        &mut pair.matches
    }
}
