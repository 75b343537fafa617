//! A conditional update as DynamoDB takes it. The files of the items build one for each write: the other face of `apply` in the
//! domain.
//!
//! `#name` stands for the attribute `name`, always, because many of our names are reserved words; only the players in a
//! claims map have placeholders of their own (`#player`, `#e0`, `#e1`, …). A condition has no arithmetic, so sums go out
//! as numbers.

use std::{borrow::Cow, fmt::Write as _};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{attributes::n, keys::Attributes};
use crate::domain::{
    Claim, PlayerId, Span,
    bug::{self, Bug},
};

/// How long DynamoDB keeps an item that nobody needs any more, at least. Long enough for every late write and for a
/// look at what happened; DynamoDB deletes "within a few days" of it ("Using time to live" in the developer guide).
pub(super) const KEEP: Span = Span::seconds(24 * 3600);

/// A conditional update, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// The update expression.
    pub update: Cow<'static, str>,
    /// The condition.
    pub condition: Cow<'static, str>,
    /// What the placeholders `:name` stand for.
    pub values: Attributes,
    /// Placeholders `#name` that stand for something else than `name`.
    pub(super) renamed: Vec<(String, String)>,
}

impl Expression {
    pub(super) fn new<const N: usize>(
        update: impl Into<Cow<'static, str>>,
        condition: impl Into<Cow<'static, str>>,
        values: [(&str, AttributeValue); N],
    ) -> Self {
        Self {
            update: update.into(),
            condition: condition.into(),
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            renamed: Vec::new(),
        }
    }

    pub(super) fn about(mut self, player: &PlayerId) -> Self {
        self.renamed.push(("#player".to_owned(), player.to_string()));
        self
    }

    pub(super) fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// The claims of these players become `:placement`, and they are exactly as they were seen. Ends in a list of what is
    /// removed.
    pub(super) fn place(&mut self, players: &[(PlayerId, Option<Claim>)], condition: &mut String) -> String {
        let mut update = "SET ".to_owned();
        for (i, (player, held)) in players.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(update, "{comma}#claims.#p{i} = :placement");
            self.renamed.push((format!("#p{i}"), player.to_string()));
            match held {
                None => {
                    let _ = write!(condition, " AND attribute_not_exists(#claims.#p{i})");
                }
                Some(claim) => {
                    let _ = write!(condition, " AND #claims.#p{i} = :p{i}");
                    self.values.insert(format!(":p{i}"), n(claim.number()));
                }
            }
        }
        update.push_str(" REMOVE #idleSince");
        update
    }

    /// Adds the removal of these claims, and that they are exactly so. `update` ends in a list of what is removed.
    pub(super) fn evict(&mut self, claims: &[(PlayerId, Claim)], update: &mut String, condition: &mut String) {
        for (i, (player, claim)) in claims.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(update, ", #claims.#e{i}");
            self.renamed.push((format!("#e{i}"), player.to_string()));
            if bug::injected(Bug::EvictInexactly) {
                continue;
            }
            let _ = write!(condition, " AND #claims.#e{i} = :e{i}");
            self.values.insert(format!(":e{i}"), n(claim.number()));
        }
    }

    /// What the placeholders `#name` stand for: exactly those that occur, as DynamoDB demands.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names = Vec::new();
        for text in [&self.update, &self.condition] {
            for part in text.split('#').skip(1) {
                let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
                let (name, _) = part.split_at(end);
                let placeholder = format!("#{name}");
                let renamed = self.renamed.iter().find(|(from, _)| *from == placeholder);
                let name = renamed.map_or(name, |(_, to)| to).to_owned();
                if !names.iter().any(|(seen, _)| *seen == placeholder) {
                    names.push((placeholder, name));
                }
            }
        }
        names
    }
}

/// The condition under which a new item may be put.
pub(super) const IS_NEW: &str = "attribute_not_exists(pk)";
/// The condition under which an item may be deleted that must be there, so that only one of many deletes it.
pub(super) const IS_THERE: &str = "attribute_exists(pk)";
