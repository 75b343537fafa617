//! Conditional updates in DynamoDB's expression language.
//!
//! The files of the items build one expression per write, with the same effect as the write's `apply` in the domain.
//!
//! Every attribute `name` is written as the placeholder `#name`, because many names are reserved words. Only the
//! players in a claims map have placeholders of other names (`#player`, `#p0`, `#e0`, …). Conditions allow no
//! arithmetic, so sums are computed here and passed as numbers.

use std::{borrow::Cow, fmt::Write as _};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{attributes::n, keys::Attributes};
use crate::domain::{
    Claim, PlayerId, Span,
    bug::{self, Bug},
};

/// Shortest time for which an unused item stays in the table: long enough for every late write and for an
/// investigation.
///
/// DynamoDB deletes items "within a few days" of their expiry ("Using time to live" in the developer guide).
pub(super) const KEEP: Span = Span::seconds(24 * 3600);

/// A conditional update that is ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// The update expression.
    pub update: Cow<'static, str>,
    /// The condition expression.
    pub condition: Cow<'static, str>,
    /// Values of the placeholders `:name`.
    pub values: Attributes,
    /// Placeholders `#name` that stand for an attribute other than `name`.
    pub(super) renamed: Vec<(String, String)>,
}

impl Expression {
    /// Creates an expression from its texts and the values of its placeholders.
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

    /// Makes the placeholder `#player` stand for a player.
    pub(super) fn about(mut self, player: &PlayerId) -> Self {
        self.renamed.push(("#player".to_owned(), player.to_string()));
        self
    }

    /// Adds or replaces the value of a placeholder.
    pub(super) fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// Returns an update that sets the claims of these players to `:placement`, and adds a condition that pins their
    /// current claims. The update ends in a REMOVE list, to which [`Self::evict`] can append.
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

    /// Adds the removal of claims, and a condition that pins them. `update` must end in a REMOVE list.
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

    /// Returns the names of the placeholders `#name`: exactly those that occur, because DynamoDB refuses unused ones.
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

/// Condition for creating an item: no item has its key.
pub(super) const IS_NEW: &str = "attribute_not_exists(pk)";
/// Condition for deleting an item: the item exists, so that only one of several deletes succeeds.
pub(super) const IS_THERE: &str = "attribute_exists(pk)";
