//! Values that may be written in several forms, read by the form that is there.

use std::fmt;

use serde::Deserializer;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

/// Implements `Deserialize` for an enum whose variants are a word, a map or a list. What is
/// wrong within keeps its place and its message, both of which serde's `untagged` would lose.
macro_rules! forms {
    ($name:ident, $expecting:literal, $word:ident
        $(, map $map:ident($one:ty))? $(, list $list:ident($many:ty))?) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Forms;
                impl<'de> serde::de::Visitor<'de> for Forms {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                        Ok($name::$word(text.to_owned()))
                    }
                    $(fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        map: A,
                    ) -> Result<$name, A::Error> {
                        let map = serde::de::value::MapAccessDeserializer::new(map);
                        <$one>::deserialize(map).map($name::$map)
                    })?
                    $(fn visit_seq<A: serde::de::SeqAccess<'de>>(
                        self,
                        list: A,
                    ) -> Result<$name, A::Error> {
                        let list = serde::de::value::SeqAccessDeserializer::new(list);
                        <$many>::deserialize(list).map($name::$list)
                    })?
                }
                from.deserialize_any(Forms)
            }
        }
    };
}

/// Implements `Deserialize` for a wrapper of a map that leaves keys out which begin with `x-`.
macro_rules! extensions {
    ($whole:ident, $inner:ty) => {
        impl<'de> serde::Deserialize<'de> for $whole {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Keys;
                impl<'de> serde::de::Visitor<'de> for Keys {
                    type Value = $whole;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("keys such as `listeners` and `routes`")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        map: A,
                    ) -> Result<$whole, A::Error> {
                        let map = crate::config::forms::Extended(map);
                        let map = serde::de::value::MapAccessDeserializer::new(map);
                        <$inner>::deserialize(map).map($whole)
                    }
                }
                from.deserialize_map(Keys)
            }
        }
    };
}

/// A map without its keys that begin with `x-`.
pub(super) struct Extended<A>(pub(super) A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Extended<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let mut seed = seed;
        loop {
            match self.0.next_key_seed(KeySeed(seed))? {
                None => return Ok(None),
                Some(Key::Known(key)) => return Ok(Some(key)),
                Some(Key::Extension(again)) => {
                    self.0.next_value::<IgnoredAny>()?;
                    seed = again;
                }
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

struct KeySeed<K>(K);

enum Key<K, T> {
    Known(T),
    /// To be left out; the seed is for the next one.
    Extension(K),
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<K> {
    type Value = Key<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for KeySeed<K> {
    type Value = Key<K, K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        if key.starts_with("x-") {
            return Ok(Key::Extension(self.0));
        }
        let key: StrDeserializer<'_, E> = key.into_deserializer();
        self.0.deserialize(key).map(Key::Known)
    }
}

pub(super) use {extensions, forms};
