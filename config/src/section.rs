//! How a section is written down: once, for its struct, its keys, its reader and its reference.

use validator::Validate;

use crate::{field::Misread, key::Key};

/// A group of settings that is passed to a part as one plain struct.
pub(crate) trait Section: Default + Validate {
    /// The name of the struct.
    const TITLE: &'static str;
    /// What the section is about.
    const ABOUT: &'static str;

    /// Its keys, in order.
    fn keys() -> Vec<Key>;

    /// Reads the section from pairs of field name and text; a field that is not among them has
    /// its default, and so has one that could not be read, which is told.
    fn read(given: Vec<(String, String)>) -> Result<(Self, Vec<Misread>), envy::Error>;

    /// The value of each key as it may be shown.
    fn shown(&self) -> Vec<(&'static str, Option<String>)>;
}

/// Writes a section: `"VARIABLE" field: Type = default, example "...";`, each with its doc
/// comment and, if it has rules of its own, their `#[validate(...)]`.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[validate $check:tt])*
                $variable:literal $field:ident: $kind:ident $(<$of:ident>)? = $default:expr
                    $(, example $example:literal)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq, validator::Validate)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nRead from `", $variable, "`.")]
                $(#[validate $check])*
                pub $field: $kind $(<$of>)?,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::section::Section for $name {
            const TITLE: &'static str = stringify!($name);
            const ABOUT: &'static str = concat!($($about, "\n"),+);

            fn keys() -> Vec<$crate::key::Key> {
                let defaults = Self::default();
                vec![$( $crate::key::Key {
                    name: $variable,
                    section: stringify!($name),
                    field: stringify!($field),
                    about: concat!($($doc, "\n"),+),
                    kind: <$kind $(<$of>)? as $crate::value::Value>::KIND,
                    hint: <$kind $(<$of>)? as $crate::value::Value>::HINT,
                    default: $crate::value::Value::show(&defaults.$field),
                    secrecy: <$kind $(<$of>)? as $crate::value::Value>::SECRECY,
                    example: [$($example)?].first().copied(),
                }, )+]
            }

            fn read(
                given: Vec<(String, String)>,
            ) -> Result<(Self, Vec<$crate::field::Misread>), envy::Error> {
                #[derive(serde::Deserialize)]
                struct Fields {
                    $( #[serde(default)] $field: $crate::field::Field<$kind $(<$of>)?>, )+
                }
                let fields: Fields = envy::from_iter(given)?;
                let defaults = Self::default();
                let mut misread = Vec::new();
                let section = Self {
                    $( $field: fields.$field.or(defaults.$field, $variable, &mut misread), )+
                };
                Ok((section, misread))
            }

            fn shown(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$( ($variable, $crate::value::Value::show(&self.$field)), )+]
            }
        }
    };
}

pub(crate) use section;
