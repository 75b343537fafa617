//! Creation of the table, for the local stack and the tests; on AWS `template.yaml` creates it.

use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
        ScalarAttributeType, TimeToLiveSpecification,
    },
};

use super::{TableError, keys};

fn attribute(name: &str, kind: ScalarAttributeType) -> Result<AttributeDefinition, TableError> {
    let built = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
    built.map_err(|error| TableError::Broken(error.to_string()))
}

fn part_of_key(name: &str, kind: KeyType) -> Result<KeySchemaElement, TableError> {
    let built = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    built.map_err(|error| TableError::Broken(error.to_string()))
}

/// Creates the table with its index and TTL. Succeeds without a change if the table exists.
///
/// # Errors
/// DynamoDB does not answer, or refuses the call.
pub async fn create_table(client: &Client, name: &str) -> Result<(), TableError> {
    let index = GlobalSecondaryIndex::builder()
        .index_name(keys::INDEX)
        .key_schema(part_of_key(keys::LISTED, KeyType::Hash)?)
        .key_schema(part_of_key(keys::RANK, KeyType::Range)?)
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
        .map_err(|error| TableError::Broken(error.to_string()))?;
    let create = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute(keys::PK, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(keys::SK, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(keys::LISTED, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(keys::RANK, ScalarAttributeType::N)?)
        .key_schema(part_of_key(keys::PK, KeyType::Hash)?)
        .key_schema(part_of_key(keys::SK, KeyType::Range)?)
        .global_secondary_indexes(index);
    match create.send().await {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => {
            return Ok(());
        }
        Err(error) => return Err(TableError::of(error)),
    }
    let ttl = TimeToLiveSpecification::builder().attribute_name(keys::TTL).enabled(true).build();
    let ttl = ttl.map_err(|error| TableError::Broken(error.to_string()))?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(ttl)
        .send()
        .await
        .map(|_| ())
        .map_err(TableError::of)
}
