//! Errors of starting the local stack. Depends on no other module.

use std::{io, path::PathBuf};

/// Why the local stack or the demo player does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket can listen on the port.
    #[error("cannot listen on 127.0.0.1:{0}: {1}. Is another stack running? `--port 0` takes a free port.")]
    Port(u16, io::Error),
    /// The table's file cannot be used.
    #[error(
        "cannot keep the table in {0}: {1}. \
         `--data` takes a file that this program has created, or a new file in a writable folder."
    )]
    Data(PathBuf, String),
    /// The embedded engine cannot be started.
    #[error("the embedded DynamoDB engine cannot be started: {0}")]
    Engine(String),
    /// `template.yaml` cannot be parsed, or lacks an expected entry.
    #[error("template.yaml cannot be used: {0}")]
    Template(String),
    /// The table's endpoint cannot be used.
    #[error("the table cannot be set up at {0}: {1}. Check that the endpoint of `--dynamodb` is running.")]
    Table(String, String),
    /// The file of pools cannot be used.
    #[error("`--pools {0}`: {1}")]
    Pools(PathBuf, String),
    /// The value of `--dynamodb` is not a URL.
    #[error(
        "`--dynamodb {0}`: give the URL of a DynamoDB endpoint, as in http://127.0.0.1:8000; infra/dynamodb-local/run starts one and prints its URL"
    )]
    Endpoint(String),
    /// The value of `--functions` is not a URL.
    #[error(
        "`--functions {0}`: give the URL of a Lambda endpoint, as in http://127.0.0.1:9001; `cargo lambda watch` is one"
    )]
    FunctionsUrl(String),
    /// The demo player's `--url` is not a URL.
    #[error("`--url {0}`: give OWMM's URL, as in http://127.0.0.1:9000; the local stack prints its own after `ready`")]
    PlayerUrl(String),
    /// The functions' endpoint cannot be used.
    #[error("the functions cannot be called at {0}: {1}")]
    Functions(String, String),
    /// The game server's command cannot be started.
    #[error("`--game-server {0}`: {1}")]
    GameServer(String, String),
}
