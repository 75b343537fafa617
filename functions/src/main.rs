//! One program with all Lambda functions: runs the function that the environment variable `_HANDLER` names.
//!
//! Lambda sets `_HANDLER` to the function's `Handler` in `template.yaml`, so one build serves all functions.

fn main() -> Result<(), functions::Error> {
    let handler = std::env::var("_HANDLER").unwrap_or_default();
    functions::run(functions::named(&handler)?)
}
