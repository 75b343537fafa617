//! Conversions between the domain's types and DynamoDB attribute values.
//!
//! A missing or malformed attribute is an error with the attribute's name, never a default value.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};

use super::keys::Attributes;
use crate::domain::{Claim, Placement, Rank, ServerId, Time, TokenHash};

/// An item of the table lacks an attribute, or has one that this version of OWMM does not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table's attribute `{0}` is missing or malformed")]
pub struct Malformed(pub &'static str);

/// Creates a number attribute.
pub(super) fn n(number: impl Into<i64>) -> AttributeValue {
    AttributeValue::N(Into::<i64>::into(number).to_string())
}

/// Creates a text attribute.
pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// Creates an attribute with a list of texts.
pub(super) fn texts(texts: &[String]) -> AttributeValue {
    AttributeValue::L(texts.iter().map(s).collect())
}

/// Creates an attribute with a set of server ids. The set must not be empty.
pub(super) fn servers<'a>(ids: impl IntoIterator<Item = &'a ServerId>) -> AttributeValue {
    AttributeValue::Ss(ids.into_iter().map(ToString::to_string).collect())
}

/// Creates a binary attribute with a token's hash.
pub(super) fn hash_value(hash: &TokenHash) -> AttributeValue {
    AttributeValue::B(Blob::new(hash.bytes()))
}

/// Reads a text attribute; `None` if it is absent.
pub(super) fn opt_text<'a>(item: &'a Attributes, name: &'static str) -> Result<Option<&'a str>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(_) => Err(Malformed(name)),
    }
}

/// Reads a text attribute that must exist.
pub(super) fn text<'a>(item: &'a Attributes, name: &'static str) -> Result<&'a str, Malformed> {
    opt_text(item, name)?.ok_or(Malformed(name))
}

/// Reads a number attribute; `None` if it is absent.
pub(super) fn opt_number<T: TryFrom<i64>>(item: &Attributes, name: &'static str) -> Result<Option<T>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::N(digits)) => {
            let number = digits.parse::<i64>().ok().and_then(|number| T::try_from(number).ok());
            number.map(Some).ok_or(Malformed(name))
        }
        Some(_) => Err(Malformed(name)),
    }
}

/// Reads a number attribute that must exist.
pub(super) fn number<T: TryFrom<i64>>(item: &Attributes, name: &'static str) -> Result<T, Malformed> {
    opt_number(item, name)?.ok_or(Malformed(name))
}

/// Reads a map attribute; `None` if it is absent.
pub(super) fn map<'a>(item: &'a Attributes, name: &'static str) -> Result<Option<&'a Attributes>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::M(map)) => Ok(Some(map)),
        Some(_) => Err(Malformed(name)),
    }
}

/// Reads an attribute with a list of texts; empty if it is absent.
pub(super) fn read_texts(item: &Attributes, name: &'static str) -> Result<Vec<String>, Malformed> {
    match item.get(name) {
        None => Ok(Vec::new()),
        Some(AttributeValue::L(list)) => {
            list.iter().map(|text| text.as_s().cloned().map_err(|_| Malformed(name))).collect()
        }
        Some(_) => Err(Malformed(name)),
    }
}

/// Reads a time in milliseconds since 1970; `None` if it is absent.
pub(super) fn time(item: &Attributes, name: &'static str) -> Result<Option<Time>, Malformed> {
    Ok(opt_number(item, name)?.map(Time))
}

/// Reads a claim: the number of its placement, negative if connected.
pub(super) fn claim(value: &AttributeValue, name: &'static str) -> Result<Claim, Malformed> {
    let digits = value.as_n().map_err(|_| Malformed(name))?;
    digits.parse().ok().and_then(Claim::from_number).ok_or(Malformed(name))
}

/// Reads the rank of a server in the index; `None` if it is absent.
pub(super) fn rank(item: &Attributes, name: &'static str) -> Result<Option<Rank>, Malformed> {
    let number = opt_number::<i64>(item, name)?;
    number.map(|number| Rank::from_number(number).ok_or(Malformed(name))).transpose()
}

/// Creates a number attribute with a time in seconds since 1970, as DynamoDB's TTL needs it.
pub(super) fn seconds(time: Time) -> AttributeValue {
    n(time.0.saturating_div(1_000))
}

/// Creates the attribute of a reserved claim.
pub(super) fn reserved(placement: Placement) -> AttributeValue {
    n(Claim::Reserved(placement).number())
}

/// Creates the attribute of a connected claim.
pub(super) fn connected(placement: Placement) -> AttributeValue {
    n(Claim::Connected(placement).number())
}
