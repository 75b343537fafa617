//! The table behind the wire: the embedded engine, called in this thread, and its items of the last seconds.
//!
//! After every write the touched items are read back from the engine and returned to the caller, which checks them.
//! This module must not know what an item means.

use std::collections::{BTreeMap, VecDeque};

use dynoxide::{
    Database, DynoxideError,
    actions::{get_item::GetItemRequest, scan::ScanRequest},
};
use serde_json::{Value, json};
use shared::table::keys;

/// Maximum age of the data in a stale answer, in milliseconds.
pub(super) const STALE_MS: u64 = 4_000;

/// An item's `pk` and `sk`.
pub(super) type Key = (String, String);

/// An item that a write has changed.
#[derive(Debug)]
pub(super) struct Change {
    /// The item's key.
    pub(super) key: Key,
    /// The item after the write; none if it was deleted.
    pub(super) after: Option<Value>,
}

/// The answer to a request, and its effect.
#[derive(Debug)]
pub(super) struct Applied {
    /// The status of the answer.
    pub(super) status: u16,
    /// The body of the answer.
    pub(super) body: String,
    /// The items that the request changed.
    pub(super) changes: Vec<Change>,
}

/// The embedded engine, with copies of its items.
pub(super) struct Engine {
    database: Database,
    /// All items, as they were last read back.
    items: BTreeMap<Key, Value>,
    /// Time, key and previous value of each recent change, oldest first.
    past: VecDeque<(u64, Key, Option<Value>)>,
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, DynoxideError> {
    serde_json::from_slice(body).map_err(|error| DynoxideError::SerializationException(error.to_string()))
}

fn write(answer: &impl serde::Serialize) -> Result<String, DynoxideError> {
    serde_json::to_string(answer).map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

fn text(value: &Value, name: &str) -> String {
    value.pointer(&format!("/{name}/S")).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the key of an item, or of a request's `Key`.
pub(super) fn key_of(value: &Value) -> Key {
    (text(value, keys::PK), text(value, keys::SK))
}

/// Returns the keys of the items that a write may change.
pub(super) fn written_by(operation: &str, body: &Value) -> Vec<Key> {
    let nothing = Value::Null;
    let get = |value: &Value, name: &str| value.get(name).map(key_of);
    match operation {
        "UpdateItem" => get(body, "Key").into_iter().collect(),
        "PutItem" => get(body, "Item").into_iter().collect(),
        "TransactWriteItems" => {
            let parts = body.get("TransactItems").unwrap_or(&nothing).as_array().into_iter().flatten();
            let about = parts.filter_map(|part| part.as_object()?.values().next());
            about.filter_map(|part| get(part, "Key").or_else(|| get(part, "Item"))).collect()
        }
        _ => Vec::new(),
    }
}

impl Engine {
    /// Creates an engine without tables.
    pub(super) fn new() -> Result<Self, DynoxideError> {
        Ok(Self { database: Database::memory()?, items: BTreeMap::new(), past: VecDeque::new() })
    }

    fn dispatch(&self, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
        let db = &self.database;
        match operation {
            "GetItem" => write(&db.get_item(read(body)?)?),
            "UpdateItem" => write(&db.update_item(read(body)?)?),
            "PutItem" => write(&db.put_item(read(body)?)?),
            "Query" => write(&db.query(read(body)?)?),
            "BatchGetItem" => write(&db.batch_get_item(read(body)?)?),
            "TransactWriteItems" => write(&db.transact_write_items(read(body)?)?),
            "CreateTable" => write(&db.create_table(read(body)?)?),
            "UpdateTimeToLive" => write(&db.update_time_to_live(read(body)?)?),
            other => Err(DynoxideError::ValidationException(format!("the simulation has no {other}"))),
        }
    }

    /// Executes one request and returns the answer with all changed items.
    pub(super) fn apply(&mut self, operation: &str, body: &[u8], table: &str, now: u64) -> Applied {
        let answer = self.dispatch(operation, body);
        let mut changes = Vec::new();
        if answer.is_ok() {
            let parsed = serde_json::from_slice::<Value>(body).unwrap_or_default();
            for key in written_by(operation, &parsed) {
                let after = self.read_back(table, &key);
                let before = match &after {
                    Some(item) => self.items.insert(key.clone(), item.clone()),
                    None => self.items.remove(&key),
                };
                if before != after {
                    self.past.push_back((now, key.clone(), before));
                    changes.push(Change { key, after });
                }
            }
            while self.past.front().is_some_and(|(at, ..)| at + 2 * STALE_MS < now) {
                self.past.pop_front();
            }
        }
        match answer {
            Ok(body) => Applied { status: 200, body, changes },
            Err(error) => Applied { status: error.status_code(), body: error.to_json(), changes },
        }
    }

    /// Reads an item from the engine.
    fn read_back(&self, table: &str, (pk, sk): &Key) -> Option<Value> {
        let key =
            json!({ "TableName": table, "Key": { "pk": { "S": pk }, "sk": { "S": sk } }, "ConsistentRead": true });
        let request = serde_json::from_value::<GetItemRequest>(key).ok()?;
        let answer = serde_json::to_value(self.database.get_item(request).ok()?).ok()?;
        answer.get("Item").cloned()
    }

    /// Reads all items from the engine.
    pub(super) fn scan(&self, table: &str) -> Option<BTreeMap<Key, Value>> {
        let request = serde_json::from_value::<ScanRequest>(json!({ "TableName": table })).ok()?;
        let answer = serde_json::to_value(self.database.scan(request).ok()?).ok()?;
        let items = answer.get("Items")?.as_array()?.iter().map(|item| (key_of(item), item.clone()));
        Some(items.collect())
    }

    /// Returns all items as they were last read back.
    pub(super) const fn items(&self) -> &BTreeMap<Key, Value> {
        &self.items
    }

    /// Returns all items as they were at a time.
    fn items_at(&self, at: u64) -> BTreeMap<Key, Value> {
        let mut items = self.items.clone();
        for (_, key, before) in self.past.iter().rev().take_while(|(changed, ..)| *changed > at) {
            match before {
                Some(item) => items.insert(key.clone(), item.clone()),
                None => items.remove(key),
            };
        }
        items
    }

    /// Returns the answer to an eventually consistent read from the items at a past time; `None` for other requests.
    pub(super) fn stale(&self, operation: &str, body: &[u8], table: &str, at: u64) -> Option<String> {
        let request = serde_json::from_slice::<Value>(body).ok()?;
        match operation {
            "Query" if request.get("IndexName").is_some() => {
                let values = request.get("ExpressionAttributeValues")?.as_object()?;
                let index_part = values.values().next()?.get("S")?.as_str()?.to_owned();
                let rank = |item: &Value| {
                    let digits = item.pointer(&format!("/{}/N", keys::RANK)).and_then(Value::as_str);
                    digits.and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0)
                };
                let items = self.items_at(at).into_values();
                let mut listed = items.filter(|item| text(item, keys::LISTED) == index_part).collect::<Vec<_>>();
                listed.sort_by_key(|item| std::cmp::Reverse(rank(item)));
                let projected = listed.iter().map(|item| {
                    let names = [keys::PK, keys::SK, keys::LISTED, keys::RANK];
                    names.iter().filter_map(|name| Some(((*name).to_owned(), item.get(*name)?.clone()))).collect()
                });
                let projected = projected.collect::<Vec<Value>>();
                Some(
                    json!({ "Count": projected.len(), "ScannedCount": projected.len(), "Items": projected })
                        .to_string(),
                )
            }
            "GetItem" => {
                let item = self.items_at(at).get(&key_of(request.get("Key")?)).cloned();
                Some(item.map_or_else(|| json!({}), |item| json!({ "Item": item })).to_string())
            }
            "BatchGetItem" => {
                let wanted = request.get("RequestItems")?.get(table)?.get("Keys")?.as_array()?;
                let items = self.items_at(at);
                let found = wanted.iter().filter_map(|key| items.get(&key_of(key)).cloned()).collect::<Vec<_>>();
                Some(json!({ "Responses": { table: found }, "UnprocessedKeys": {} }).to_string())
            }
            _ => None,
        }
    }
}
