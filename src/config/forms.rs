//! Values that may be written in several forms, read by the form that is there.

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

pub(super) use forms;
