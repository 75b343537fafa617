//! The Lambda functions, one module per function. Its handler parses the event, calls one operation of `shared` and
//! renders the outcome.
//!
//! This crate owns the list of functions ([`ALL`]) with the kind of event that invokes each, and the main loop of a
//! function ([`run`]). It does not use the table directly. `src/main.rs` is one program with all functions, and
//! `src/bin` has one program per function.
//!
//! A new function needs a module and one line in the list below. The test `tests/tests/it/function_list.rs` names every
//! other place that has to list it.

pub mod deregister_player;
pub mod deregister_server;
pub mod drain;
pub mod heartbeat;
pub mod join;
pub mod launch;
pub mod party;
pub mod players;
pub mod pools;
pub mod reconcile;
pub mod register_player;
pub mod register_server;
pub mod servers;
pub mod task_stopped;

use std::{convert::Infallible, pin::Pin};

pub use lambda_http::Error;
use lambda_http::{
    lambda_runtime::{self, LambdaEvent},
    service_fn,
};
use shared::{
    Failure, Owmm, Reconciled,
    config::{Config, connect, sdk},
    http::{Body, Request, Response},
};

/// Result of an HTTP handler, which never fails: a refusal is a response too.
pub type Answer = Result<Response<Body>, Infallible>;

/// Future of a handler that processes one event.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A function's handler, by the kind of event that invokes the function.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// Routes of the HTTP API.
    Http(for<'a> fn(&'a Owmm, Request) -> Work<'a, Answer>),
    /// The EventBridge schedule.
    Schedule(for<'a> fn(&'a Owmm) -> Work<'a, Result<Reconciled, Failure>>),
    /// The EventBridge rule on `ECS Task State Change`.
    TaskStateChange(for<'a> fn(&'a Owmm, task_stopped::Event) -> Work<'a, Result<(), Failure>>),
}

/// A Lambda function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Name of the function. Its program in `src/bin` and its `Handler` in `template.yaml` have the same name; on AWS
    /// the stack's name precedes it.
    pub name: &'static str,
    /// The function's handler.
    pub handler: Handler,
}

macro_rules! functions {
    ($($constant:ident = $name:literal, $event:ident($module:ident);)*) => {
        $(
            #[doc = concat!("The function `", $name, "`, see [`", stringify!($module), "`].")]
            pub static $constant: Function = Function { name: $name, handler: handler!($event, $module) };
        )*

        /// Every function.
        pub static ALL: &[&Function] = &[$(&$constant),*];
    };
}

macro_rules! handler {
    (Schedule, $module:ident) => {
        Handler::Schedule(|owmm| Box::pin($module::handle(owmm)))
    };
    ($event:ident, $module:ident) => {
        Handler::$event(|owmm, event| Box::pin($module::handle(owmm, event)))
    };
}

// The list: constant, name, kind of event, module.
functions! {
    DEREGISTER_PLAYER = "deregister-player", Http(deregister_player);
    DEREGISTER_SERVER = "deregister-server", Http(deregister_server);
    DRAIN = "drain", Http(drain);
    HEARTBEAT = "heartbeat", Http(heartbeat);
    JOIN = "join", Http(join);
    LAUNCH = "launch", Http(launch);
    PARTY = "party", Http(party);
    PLAYERS = "players", Http(players);
    POOLS = "pools", Http(pools);
    RECONCILE = "reconcile", Schedule(reconcile);
    REGISTER_PLAYER = "register-player", Http(register_player);
    REGISTER_SERVER = "register-server", Http(register_server);
    SERVERS = "servers", Http(servers);
    TASK_STOPPED = "task-stopped", TaskStateChange(task_stopped);
}

/// Error of [`named`]: no function has the name in `_HANDLER`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no function is named `{handler}`: set `Handler` of the Lambda function, and so `_HANDLER`, to one of {}", known.join(", "))]
pub struct UnknownHandler {
    handler: String,
    known: Vec<&'static str>,
}

/// Returns the function with the name `handler`.
///
/// # Errors
/// No function has this name. The error lists the names of all functions.
pub fn named(handler: &str) -> Result<&'static Function, UnknownHandler> {
    let found = ALL.iter().copied().find(|function| function.name == handler);
    found.ok_or_else(|| UnknownHandler {
        handler: handler.to_owned(),
        known: ALL.iter().map(|function| function.name).collect(),
    })
}

/// Runs `function` until Lambda stops the process: reads the configuration, connects the clients, then processes one
/// event at a time.
///
/// # Errors
/// An environment variable is missing, or the Lambda Runtime API cannot be reached.
#[tokio::main(flavor = "current_thread")]
pub async fn run(function: &'static Function) -> Result<(), Error> {
    shared::telemetry::log_as_json();
    let (owmm, calls) = connect(function.name, Config::from_env()?, &sdk().await);
    let (owmm, calls) = (&owmm, &calls);
    match function.handler {
        Handler::Http(handle) => lambda_http::run(service_fn(|request| calls.recorded(handle(owmm, request)))).await,
        Handler::Schedule(handle) => {
            let answer =
                async |_: LambdaEvent<reconcile::Tick>| calls.recorded(handle(owmm)).await.map_err(Error::from);
            lambda_runtime::run(service_fn(answer)).await
        }
        Handler::TaskStateChange(handle) => {
            let answer =
                async |event: LambdaEvent<_>| calls.recorded(handle(owmm, event.payload)).await.map_err(Error::from);
            lambda_runtime::run(service_fn(answer)).await
        }
    }
}
