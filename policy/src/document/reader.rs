//! Reads typed values out of a tree of JSON, and collects everything that is wrong with it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{self, PolicyError, PolicyErrors};
use crate::excerpt::Excerpt;
use crate::suggestion::did_you_mean;

/// The most items that a document's lists have, all together.
const MOST_ITEMS: usize = 50_000;

/// What errors call the plugin JSON of a filter as a whole.
pub const PLUGIN_JSON: &str = "plugin JSON";

/// What was wrong so far.
#[derive(Debug)]
pub struct Reader {
    root: &'static str,
    errors: Vec<PolicyError>,
    items: usize,
}

/// An object, and where it is.
#[derive(Debug)]
pub struct Object<'v> {
    members: &'v Map<String, Value>,
    place: String,
}

/// A value, and where it is.
#[derive(Debug)]
pub struct Item<'v> {
    /// The value.
    pub value: &'v Value,
    /// Its place.
    pub place: String,
}

impl<'v> Item<'v> {
    /// The whole tree.
    pub fn root(value: &'v Value) -> Self {
        Self { value, place: String::new() }
    }
}

impl<'v> Object<'v> {
    /// The place of a key.
    pub fn place(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// A member; null is the same as absent.
    pub fn get(&self, key: &str) -> Option<Item<'v>> {
        let value = self.members.get(key).filter(|value| !value.is_null())?;
        Some(Item { value, place: self.place(key) })
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.members.contains_key(key)
    }
}

impl Reader {
    /// One that has read nothing; `root` names the whole in errors.
    pub fn new(root: &'static str) -> Self {
        Self { root, errors: Vec::new(), items: 0 }
    }

    /// Everything that was wrong.
    pub(crate) fn into_errors(self) -> Vec<PolicyError> {
        self.errors
    }

    /// What was read, if nothing was wrong.
    pub fn finish<T>(self, read: Option<T>) -> Result<T, PolicyErrors> {
        match (self.too_long(), read) {
            (Some(error), _) => Err(PolicyErrors::new(vec![error])),
            (None, Some(read)) if self.errors.is_empty() => Ok(read),
            _ => Err(PolicyErrors::new(self.errors)),
        }
    }

    /// That the lists were longer than what is read; all else that is wrong may follow from that.
    pub(crate) fn too_long(&self) -> Option<PolicyError> {
        (self.items > MOST_ITEMS).then(|| PolicyError::Document {
            place: self.root.to_owned(),
            message: format!(
                "its lists of rules, of entries of URL lists and so on have more than {MOST_ITEMS} items in all"
            ),
        })
    }

    /// Something is wrong.
    pub fn error(&mut self, place: impl Into<String>, message: impl Into<String>) {
        let place = place.into();
        let place = if place.is_empty() { self.root.to_owned() } else { place };
        self.errors.push(PolicyError::Document { place, message: message.into() });
    }

    /// An object with no other keys than these.
    pub fn object<'v>(&mut self, item: &Item<'v>, keys: &[&str]) -> Option<Object<'v>> {
        let Value::Object(members) = item.value else {
            self.wrong_type(item, "an object");
            return None;
        };
        let object = Object { members, place: item.place.clone() };
        for key in members.keys().filter(|key| !keys.contains(&key.as_str())).take(error::MOST) {
            let hint = did_you_mean(key, keys.iter().copied());
            let hint = if hint.is_empty() { format!("; known here: {}", quoted(keys)) } else { hint };
            self.error(
                object.place(&Excerpt::new(key).to_string()),
                format!("unknown key `{}`{hint}", Excerpt::new(key)),
            );
        }
        Some(object)
    }

    /// A key that must be there.
    pub fn required<'v>(&mut self, object: &Object<'v>, key: &str) -> Option<Item<'v>> {
        let item = object.get(key);
        if item.is_none() {
            self.error(object.place.clone(), format!("missing key `{key}`"));
        }
        item
    }

    /// A text.
    pub fn text(&mut self, item: &Item<'_>) -> Option<String> {
        match item.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type(item, "a text");
                None
            }
        }
    }

    /// A text, if the key is there.
    pub fn optional_text(&mut self, object: &Object<'_>, key: &str) -> Option<String> {
        object.get(key).and_then(|item| self.text(&item))
    }

    /// A text made into something.
    pub fn parse<T, E: std::fmt::Display>(
        &mut self,
        item: &Item<'_>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(item)?;
        parse(&text).map_err(|error| self.error(&item.place, error.to_string())).ok()
    }

    /// A whole number in a range.
    pub fn number(&mut self, item: &Item<'_>, range: &RangeInclusive<u64>) -> Option<u64> {
        if !item.value.is_number() {
            self.wrong_type(item, "a number");
            return None;
        }
        let number = item.value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            let range =
                if *most == u64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
            self.error(&item.place, format!("`{}` is out of range; use {range}", item.value));
        }
        number
    }

    /// A whole number in a range, or the default.
    pub fn optional_number<T: TryFrom<u64>>(
        &mut self,
        object: &Object<'_>,
        key: &str,
        range: &RangeInclusive<u64>,
        default: T,
    ) -> T {
        let number = object.get(key).and_then(|item| self.number(&item, range));
        number.and_then(|number| T::try_from(number).ok()).unwrap_or(default)
    }

    /// A share, 0 to 1.
    pub fn share(&mut self, item: &Item<'_>) -> Option<f64> {
        let Some(share) = item.value.as_f64() else {
            self.wrong_type(item, "a number");
            return None;
        };
        if !(0.0..=1.0).contains(&share) {
            self.error(&item.place, format!("`{}` is out of range; use 0 to 1", item.value));
            return None;
        }
        Some(share)
    }

    /// The last segment of a resource name.
    pub(crate) fn reference(&mut self, item: &Item<'_>) -> Option<String> {
        let text = self.text(item)?;
        let name = short_name(&text);
        if name.is_empty() || name.chars().any(char::is_control) || name.len() > 256 {
            self.error(&item.place, format!("`{}` is no name", Excerpt::new(&text)));
            return None;
        }
        Some(name.to_owned())
    }

    /// True or false.
    pub fn boolean(&mut self, object: &Object<'_>, key: &str, default: bool) -> bool {
        match object.get(key) {
            None => default,
            Some(Item { value: Value::Bool(value), .. }) => *value,
            Some(item) => {
                self.wrong_type(&item, "true or false");
                default
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, item: &Item<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(item)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.error(
                &item.place,
                format!("`{}` is not known here; use {}", Excerpt::new(&text), quoted(&known)),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// One of a few words, or the default.
    pub fn optional_choice<T: Copy + Default>(
        &mut self,
        object: &Object<'_>,
        key: &str,
        words: &[(&str, T)],
    ) -> T {
        object.get(key).and_then(|item| self.choice(&item, words)).unwrap_or_default()
    }

    /// The items of a list; none if the key is absent.
    pub fn list<'v>(&mut self, object: &Object<'v>, key: &str) -> Vec<Item<'v>> {
        let Some(item) = object.get(key) else { return Vec::new() };
        let Value::Array(values) = item.value else {
            self.wrong_type(&item, "a list");
            return Vec::new();
        };
        self.items = self.items.saturating_add(values.len());
        if self.items > MOST_ITEMS {
            return Vec::new();
        }
        let place = |index| format!("{}[{index}]", item.place);
        values.iter().enumerate().map(|(index, value)| Item { value, place: place(index) }).collect()
    }

    /// A list of texts, each made into something.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        object: &Object<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for item in self.list(object, key) {
            parsed.extend(self.parse(&item, &parse));
        }
        parsed
    }

    /// An object of texts, by keys that are free.
    pub fn texts(&mut self, item: &Item<'_>) -> BTreeMap<String, String> {
        let Value::Object(members) = item.value else {
            self.wrong_type(item, "an object");
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (key, value) in members {
            match value {
                Value::String(text) => {
                    texts.insert(key.clone(), text.clone());
                }
                _ => self.wrong_type(
                    &Item { value, place: format!("{}.{}", item.place, Excerpt::new(key)) },
                    "a text",
                ),
            }
        }
        texts
    }

    /// A value of the wrong type.
    pub fn wrong_type(&mut self, item: &Item<'_>, expected: &str) {
        let (found, remedy) = match item.value {
            Value::Null => ("nothing", ""),
            Value::Bool(_) => {
                ("true or false", if expected == "a text" { "; put quotes around it" } else { "" })
            }
            Value::Number(_) => {
                ("a number", if expected == "a text" { "; put quotes around it" } else { "" })
            }
            Value::String(_) => ("a text", ""),
            Value::Array(_) => ("a list", ""),
            Value::Object(_) => ("an object", ""),
        };
        self.error(&item.place, format!("expected {expected}, found {found}{remedy}"));
    }
}

/// The last segment of a resource name.
pub(crate) fn short_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Words in backticks, with commas.
pub(crate) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
