//! The SDK's HTTP connector: carries the requests of the functions to the engine and the local ECS, with faults.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use ecs::Fault as EcsFault;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    call::{CALL, Call},
    checks::Caller,
    engine::{self, STALE_MS},
    injected::fresh_client_token,
    plan::Fault,
    world::{TABLE, World, lock, plain},
};

/// The HTTP connector of one process of the functions.
#[derive(Clone)]
pub(super) struct Wire(Weak<World>);

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let world = self.0.upgrade();
        let call = CALL.try_with(Arc::clone).ok();
        HttpConnectorFuture::new(async move {
            match (world, Sent::read(&request)) {
                (Some(world), Some(sent)) => carry(world, call, sent).await,
                _ => Err(ConnectorError::user("the run is over".into())),
            }
        })
    }
}

/// A request on the wire.
#[derive(Clone)]
struct Sent {
    /// The prefix and the name of the operation.
    target: String,
    body: Vec<u8>,
}

type Answer = (u16, String);

impl Sent {
    fn read(request: &HttpRequest) -> Option<Self> {
        let target = request.headers().get("x-amz-target")?.to_owned();
        let mut sent = Self { target, body: request.body().bytes()?.to_vec() };
        if sent.operation() == "RunTask"
            && let Some(body) = fresh_client_token(&sent.body, request.headers().get("amz-sdk-invocation-id"))
        {
            sent.body = body;
        }
        Some(sent)
    }

    fn operation(&self) -> &str {
        self.target.rsplit('.').next().unwrap_or_default()
    }

    fn is_to_ecs(&self) -> bool {
        self.target.starts_with("AmazonEC2ContainerService")
    }

    fn is_write(&self) -> bool {
        matches!(self.operation(), "UpdateItem" | "PutItem" | "TransactWriteItems")
    }

    /// Applies the request and returns the answer.
    fn apply(&self, world: &World, by: &Caller, number: u64) -> Answer {
        if self.is_to_ecs() {
            let Some(ecs) = world.ecs() else { return error(500, "ServerException", "the simulation has no ECS") };
            if self.operation() == "RunTask" && world.strikes(Fault::NoCapacity) {
                ecs.inject(EcsFault::NoCapacity, 1);
            }
            let (status, body) = ecs.call(&self.target, &self.body);
            return (status.as_u16(), body.to_string());
        }
        let applied = world.apply(by, number, self.operation(), &self.body);
        (applied.status, applied.body)
    }

    /// Describes the request for the history.
    fn described(&self) -> String {
        let body = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        let keys = engine::written_by(self.operation(), &body);
        let about = keys.iter().map(|(pk, sk)| format!("{pk} {sk}")).collect::<Vec<_>>().join(", ");
        let value = |name: &str| body.get(name).map(plain).unwrap_or_default();
        let about = if about.is_empty() { [value("Key"), value("tasks"), value("task")].concat() } else { about };
        format!("{} {about} {} {}", self.operation(), value("UpdateExpression"), value("ExpressionAttributeValues"))
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    (status, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message }).to_string())
}

fn response((status, body): Answer) -> Result<HttpResponse, ConnectorError> {
    let status = StatusCode::try_from(status).map_err(|error| ConnectorError::user(error.into()))?;
    Ok(HttpResponse::new(status, SdkBody::from(body)))
}

/// Resets the connection, or leaves the request without an answer.
async fn silence(world: &World) -> Result<HttpResponse, ConnectorError> {
    if world.chance.hit(500) {
        sleep(world.chance.ms(1, 400)).await;
        return Err(ConnectorError::io("the connection was reset".into()));
    }
    std::future::pending().await
}

async fn carry(world: Arc<World>, call: Option<Arc<Call>>, sent: Sent) -> Result<HttpResponse, ConnectorError> {
    let number = world.number();
    let by = call.as_ref().map_or(Caller::Setup, |call| call.by.clone());
    let recorded = world.is_recorded();
    if recorded {
        let of = call.as_ref().map_or(0, |call| call.number);
        world.record(format_args!("  w{number} of c{of}: {}", sent.described()));
    }
    if let Some(call) = &call
        && world.strikes(Fault::FunctionKilled)
    {
        // The process dies before it sends the request, or right after.
        if world.chance.hit(500) {
            sent.apply(&world, &by, number);
        }
        return call.kill().await;
    }
    if let Some(call) = &call
        && world.strikes(Fault::FunctionFrozen)
    {
        call.freeze(world.chance.ms(500, 25_000)).await;
    }
    let answer = match fault_for(&world, &sent) {
        Some(fault) => {
            world.record(format_args!("  w{number}: {}", fault.as_str()));
            match apply_with_fault(&world, fault, &sent, &by, number).await {
                Some(answer) => answer,
                None => return silence(&world).await,
            }
        }
        None => {
            sleep(world.chance.ms(1, 6)).await;
            sent.apply(&world, &by, number)
        }
    };
    sleep(world.chance.ms(1, 6)).await;
    if recorded {
        let body = serde_json::from_str::<Value>(&answer.1).unwrap_or_default();
        let code = body.get("__type").and_then(Value::as_str).and_then(|code| code.rsplit('#').next());
        world.record(format_args!("  w{number} answers {} {}", answer.0, code.unwrap_or_default()));
    }
    if let Some(call) = &call {
        if world.strikes(Fault::FunctionKilled) {
            return call.kill().await;
        }
        if world.strikes(Fault::FunctionFrozen) {
            call.freeze(world.chance.ms(500, 25_000)).await;
        }
    }
    response(answer)
}

/// Draws the fault that strikes this request, if any.
fn fault_for(world: &World, sent: &Sent) -> Option<Fault> {
    const ANY: [Fault; 7] = [
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::Late,
        Fault::Slow,
        Fault::Throttled,
        Fault::ErrorAfterEffect,
        Fault::Error,
    ];
    if sent.is_write() && world.strikes(Fault::Conflict) {
        return Some(Fault::Conflict);
    }
    if (sent.is_write() || sent.operation() == "RunTask") && world.strikes(Fault::Repeated) {
        return Some(Fault::Repeated);
    }
    // An eventually consistent read may get a stale answer. A query of the index is always eventually consistent.
    let reads = matches!(sent.operation(), "GetItem" | "Query" | "BatchGetItem");
    let lags = reads && !String::from_utf8_lossy(&sent.body).contains("\"ConsistentRead\":true");
    if lags && world.strikes(Fault::Stale) {
        return Some(Fault::Stale);
    }
    ANY.into_iter().find(|fault| world.strikes(*fault))
}

/// Applies the request with a fault; `None` if the caller gets no answer.
async fn apply_with_fault(world: &Arc<World>, fault: Fault, sent: &Sent, by: &Caller, number: u64) -> Option<Answer> {
    let later = |after: Duration| {
        let (world, sent, by) = (Arc::clone(world), sent.clone(), by.clone());
        tokio::spawn(async move {
            sleep(after).await;
            world.record(format_args!("  w{number} takes effect now"));
            sent.apply(&world, &by, number);
        });
    };
    match fault {
        Fault::AnswerLost => {
            sleep(world.chance.ms(1, 6)).await;
            sent.apply(world, by, number);
            None
        }
        Fault::Late => {
            later(world.chance.ms(200, 20_000));
            None
        }
        Fault::Repeated => {
            sleep(world.chance.ms(1, 6)).await;
            let answer = sent.apply(world, by, number);
            later(world.chance.ms(0, 20_000));
            Some(answer)
        }
        Fault::Slow => {
            sleep(world.chance.ms(50, 2_800)).await;
            Some(sent.apply(world, by, number))
        }
        Fault::Throttled if sent.is_to_ecs() => Some(error(400, "ThrottlingException", "Rate exceeded")),
        Fault::Throttled => {
            let code =
                if world.chance.hit(500) { "ThrottlingException" } else { "ProvisionedThroughputExceededException" };
            Some(error(400, code, "too much"))
        }
        Fault::ErrorAfterEffect => {
            sleep(world.chance.ms(1, 6)).await;
            sent.apply(world, by, number);
            Some(error(500, "InternalServerError", "after the effect"))
        }
        Fault::Error => Some(error(if world.chance.hit(500) { 500 } else { 503 }, "InternalServerError", "no effect")),
        Fault::Conflict => Some(conflict(sent)),
        Fault::Stale => {
            sleep(world.chance.ms(1, 6)).await;
            let at = world.now_ms().saturating_sub(world.chance.within(1, STALE_MS));
            let stale = lock(&world.engine).stale(sent.operation(), &sent.body, TABLE, at);
            Some(stale.map_or_else(|| sent.apply(world, by, number), |body| (200, body)))
        }
        _ => None,
    }
}

fn conflict(sent: &Sent) -> Answer {
    const NAME: &str = "Transaction is ongoing for the item";
    if sent.operation() != "TransactWriteItems" {
        return error(400, "TransactionConflictException", NAME);
    }
    let body = serde_json::from_slice::<Value>(&sent.body).unwrap_or_default();
    let parts = body.get("TransactItems").and_then(Value::as_array).map_or(0, Vec::len);
    let reasons = (0..parts).map(|part| match part {
        0 => json!({ "Code": "TransactionConflict", "Message": NAME }),
        _ => json!({ "Code": "None" }),
    });
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "message": "Transaction cancelled, please refer cancellation reasons for specific reasons [TransactionConflict]",
        "CancellationReasons": reasons.collect::<Vec<_>>(),
    });
    (400, body.to_string())
}

/// Creates the connector of a process.
pub(super) fn wire(world: &Arc<World>) -> Wire {
    Wire(Arc::downgrade(world))
}
