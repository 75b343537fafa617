//! The requests and the output of each command.

use std::{io::Read, path::Path};

use reqwest::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::{
    api::{Answer, Api, optional},
    args::{Command, Global, PlayerCommand, PoolCommand, ServerCommand, Watch, Yes},
    ask,
    failure::{Failure, say},
    json,
    settings::{self, Patch},
    show::{NOTHING, View, age, distance, field, left, list, long, moment, table, text, time},
    watch::watch,
};

/// Runs one command against the API.
pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let api = Api::new(global).await?;
    let json = global.json;
    match command {
        Command::Pools { watch } => once_or_repeated(api, watch, json, async |api| pools(api).await).await,
        Command::Servers { pool, watch } => {
            once_or_repeated(api, watch, json, async |api| servers(api, pool.as_deref()).await).await
        }
        Command::Pool(PoolCommand::Show { pool }) => pool_view(&api.get(&["pools", &pool]).await?).print(json),
        Command::Pool(PoolCommand::Set { pool, patches, file, dry_run, yes }) => {
            let changes = Changes { patches, file: file.as_deref().map(read).transpose()?, dry_run, yes };
            set(&api, &pool, changes, json).await
        }
        Command::Server(ServerCommand::Show { server }) => {
            server_view(&api.get(&["servers", &server]).await?).print(json)
        }
        Command::Server(ServerCommand::Drain { server, deadline, yes }) => {
            drain(&api, &server, deadline, yes).await?.print(json)
        }
        Command::Player(PlayerCommand::Show { player }) => {
            player_view(&api.get(&["players", &player]).await?).print(json)
        }
        Command::Player(PlayerCommand::Release { player, yes }) => release(&api, &player, yes, json).await,
        Command::Launch { pool, at_least, yes } => launch(&api, &pool, at_least, yes).await?.print(json),
        Command::Pause { pool, seconds, yes } => pause(&api, &pool, seconds, yes).await?.print(json),
        Command::Resume { pool } => {
            let answer = api.send(Method::POST, &["pools", &pool, "resume"], None).await?;
            let text = format!("{pool}: launching is on\n");
            View { json: answer.body, text }.print(json)
        }
        // `main` has handled this command, which needs no API.
        Command::Completion { .. } => Ok(()),
    }
}

/// Prints a view once, or at every interval of `--watch`.
async fn once_or_repeated(
    api: Api,
    repeat: Watch,
    json: bool,
    fetch: impl AsyncFn(&Api) -> Result<View, Failure>,
) -> Result<(), Failure> {
    let Some(every) = repeat.every() else { return fetch(&api).await?.print(json) };
    let api = api.without_retries();
    watch(every, json, async || fetch(&api).await).await
}

fn entries<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(of: &Value, name: &str) -> i64 {
    of.get(name).and_then(Value::as_i64).unwrap_or_default()
}

/// Formats a table, or the text `none` if it has no rows.
fn table_or_none(heading: &[&str], numbers: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() { format!("{none}\n") } else { table(heading, numbers, rows) }
}

// Pools.

async fn pools(api: &Api) -> Result<View, Failure> {
    let Answer { body, now } = api.get(&["pools"]).await?;
    let rows = entries(&body, "pools").iter().map(|pool| {
        let settings = &pool["settings"];
        let servers = format!("{}/{}", field(pool, "liveServers"), field(settings, "maxServers"));
        vec![
            field(pool, "name"),
            servers,
            field(settings, "capacity"),
            field(settings, "headroom"),
            launching(pool, now),
            field(&settings["task"], "taskDefinition"),
            field(pool, "build"),
            field(settings, "rollout"),
        ]
    });
    let heading = ["POOL", "SERVERS", "CAPACITY", "HEADROOM", "LAUNCHING", "TASK DEFINITION", "BUILD", "ROLLOUT"];
    let numbers = ["SERVERS", "CAPACITY", "HEADROOM", "BUILD"];
    let text = table_or_none(&heading, &numbers, rows.collect(), "no pool is configured");
    Ok(View { json: body, text })
}

/// Describes whether the pool is launching, and if not, why and for how long.
fn launching(pool: &Value, now: OffsetDateTime) -> String {
    let failed = number(pool, "failedLaunches");
    let by_operator = &pool["operatorPause"];
    if let Some(until) = time(by_operator, "until") {
        return format!("paused by operator for {}", left(Some(until), now));
    }
    if !by_operator.is_null() {
        return "paused by operator".to_owned();
    }
    match time(pool, "launchPausedUntil").filter(|until| *until > now) {
        Some(until) => format!("paused for {}: {failed} failed", left(Some(until), now)),
        None if failed > 0 => format!("on, {failed} failed"),
        None => "on".to_owned(),
    }
}

fn pool_view(Answer { body, now }: &Answer) -> View {
    let mut rows = vec![
        ("pool".to_owned(), field(body, "name")),
        ("live servers".to_owned(), field(body, "liveServers")),
        ("launching".to_owned(), launching(body, *now)),
        ("build".to_owned(), field(body, "build")),
    ];
    rows.extend(body["settings"].as_object().map(settings::all).unwrap_or_default());
    View { json: body.clone(), text: list(&rows) }
}

/// What `pool set` changes, and whether it asks.
struct Changes {
    patches: Vec<Patch>,
    file: Option<Map<String, Value>>,
    dry_run: bool,
    yes: Yes,
}

/// Reads settings from a JSON file; `-` is stdin.
fn read(path: &Path) -> Result<Map<String, Value>, Failure> {
    let wrong = |why: String| Failure::Usage(format!("`--file {}`: {why}", path.display()));
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(_) => Err(wrong("it must be one JSON object with the settings".to_owned())),
        Err(error) => Err(wrong(json::in_words(&error))),
    }
}

/// Returns the pool's settings; none if the pool does not exist.
async fn current(api: &Api, pool: &str) -> Result<Option<Map<String, Value>>, Failure> {
    match api.get(&["pools", pool]).await {
        Ok(answer) => Ok(answer.body.get("settings").and_then(Value::as_object).cloned()),
        Err(Failure::Problem(problem)) if problem.code() == Some("unknown_pool") => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn set(api: &Api, pool: &str, changes: Changes, json: bool) -> Result<(), Failure> {
    if !changes.dry_run {
        ask::possible(&changes.yes)?;
    }
    let old = current(api, pool).await?;
    let mut new = changes.file.or_else(|| old.clone()).unwrap_or_default();
    for patch in &changes.patches {
        patch.apply(&mut new);
    }
    let rows = settings::difference(old.as_ref(), &new);
    let same = rows.is_empty();
    if old.is_none() {
        say(&format!("There is no pool `{pool}` yet."));
    }
    if !same {
        say(table(&["SETTING", "IS", "WOULD BE"], &[], rows).trim_end());
    }
    if changes.dry_run {
        return View { json: new.into(), text: format!("{pool} is unchanged\n") }.print(json);
    }
    if same {
        let Answer { body, .. } = api.get(&["pools", pool]).await?;
        return View { json: body, text: format!("{pool} already has these settings\n") }.print(json);
    }
    if !changes.yes.yes {
        ask::sure(&format!("Apply these settings to `{pool}`?"))?;
        // The request replaces all settings, so it would silently undo what another operator set during the question.
        if current(api, pool).await? != old {
            let why = format!(
                "another operator has changed `{pool}` in the meantime; nothing was done.\n  hint: repeat the command, \
                 which shows the new difference"
            );
            return Err(Failure::Stale(why));
        }
    }
    let Answer { body, .. } = api.send(Method::PUT, &["pools", pool], Some(&new.into())).await?;
    View { json: body, text: format!("{pool} is set; all functions use the new settings within ten seconds\n") }
        .print(json)
}

async fn launch(api: &Api, pool: &str, at_least: u32, yes: Yes) -> Result<View, Failure> {
    ask::possible(&yes)?;
    if !yes.yes {
        let live = number(&api.get(&["pools", pool]).await?.body, "liveServers");
        ask::sure(&format!("`{pool}` has {live} live servers. Start servers until it has at least {at_least}?"))?;
    }
    let mut started = Vec::new();
    loop {
        let sent =
            api.send(Method::POST, &["pools", pool, "launch"], optional("atLeast", Some(at_least)).as_ref()).await;
        let answer = sent.inspect_err(|_| {
            if !started.is_empty() {
                let ids = text(&started.clone().into());
                say(&format!("{} servers were started before the error below: {ids}", started.len()));
            }
        })?;
        let now = entries(&answer.body, "started");
        started.extend_from_slice(now);
        let (live, missing) = (number(&answer.body, "liveServers"), number(&answer.body, "missing"));
        // One call starts a limited number of servers. A call that started none ends the loop.
        if missing > 0 && !now.is_empty() {
            continue;
        }
        let lines = started.iter().map(|server| format!("started {}\n", text(server))).collect::<String>();
        let wanting = if missing > 0 { format!(", {missing} missing: repeat the command") } else { String::new() };
        let text = format!("{lines}{pool}: {live} live servers{wanting}\n");
        return Ok(View { json: json!({ "started": started, "liveServers": live, "missing": missing }), text });
    }
}

async fn pause(api: &Api, pool: &str, seconds: Option<u32>, yes: Yes) -> Result<View, Failure> {
    let long =
        seconds.map_or_else(|| "until it is resumed".to_owned(), |seconds| format!("for {}", long(seconds.into())));
    ask::possible(&yes)?;
    if !yes.yes {
        ask::sure(&format!("Pause the launches of `{pool}` {long}?"))?;
    }
    let body = optional("seconds", seconds);
    let answer = api.send(Method::POST, &["pools", pool, "pause"], body.as_ref()).await?;
    let text = format!("{pool}: launching is paused {long}\n");
    Ok(View { json: answer.body, text })
}

// Servers.

async fn servers(api: &Api, pool: Option<&str>) -> Result<View, Failure> {
    let names = match pool {
        Some(pool) => vec![pool.to_owned()],
        None => {
            let pools = api.get(&["pools"]).await?.body;
            entries(&pools, "pools").iter().filter_map(|pool| Some(pool.get("name")?.as_str()?.to_owned())).collect()
        }
    };
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    for name in names {
        let (servers, now) = api.servers(&name).await?;
        for mut server in servers {
            rows.push(server_row(&name, &server, now));
            if let Some(server) = server.as_object_mut() {
                // Servers of a listing lack the pool; `GET /servers/{serverId}` has it under this name.
                server.insert("pool".to_owned(), name.as_str().into());
            }
            all.push(server);
        }
    }
    let heading = ["POOL", "SERVER", "STATE", "CONNECTED", "RESERVED", "SLOTS", "ADDRESS", "UP", "LEASE", "NOTES"];
    let numbers = ["CONNECTED", "RESERVED", "SLOTS"];
    let text = table_or_none(&heading, &numbers, rows, "there is no server");
    Ok(View { json: json!({ "servers": all, "next": null }), text })
}

fn server_row(pool: &str, server: &Value, now: OffsetDateTime) -> Vec<String> {
    vec![
        pool.to_owned(),
        field(server, "id"),
        field(server, "state"),
        field(server, "connected"),
        field(server, "reserved"),
        field(server, "capacity"),
        address(server),
        age(time(server, "readyAt"), now),
        left(time(server, "leaseExpiresAt"), now),
        notes(server, now),
    ]
}

fn address(server: &Value) -> String {
    match server.get("address").and_then(Value::as_str) {
        Some(address) if address.contains(':') => format!("[{}]:{}", text(&address.into()), field(server, "port")),
        Some(address) => format!("{}:{}", text(&address.into()), field(server, "port")),
        None => NOTHING.to_owned(),
    }
}

fn notes(server: &Value, now: OffsetDateTime) -> String {
    let mut notes = Vec::new();
    if let Some(deadline) = time(server, "drainDeadline").filter(|_| server["state"] == "draining") {
        notes.push(format!("deadline {}", distance(deadline, now)));
    }
    if number(server, "build") > 0 {
        notes.push(format!("build {}", number(server, "build")));
    }
    if number(server, "attempt") > 1 {
        notes.push(format!("attempt {}", number(server, "attempt")));
    }
    notes.join(", ")
}

fn server_view(Answer { body, now }: &Answer) -> View {
    let rows = [
        ("server", field(body, "id")),
        ("pool", field(body, "pool")),
        ("state", field(body, "state")),
        ("slots", field(body, "capacity")),
        ("connected", field(body, "connected")),
        ("reserved", field(body, "reserved")),
        ("address", address(body)),
        ("ready", moment(body, "readyAt", *now)),
        ("last heartbeat", moment(body, "lastHeartbeatAt", *now)),
        ("lease until", moment(body, "leaseExpiresAt", *now)),
        ("idle since", moment(body, "idleSince", *now)),
        ("launch deadline", moment(body, "launchDeadline", *now)),
        ("drain deadline", moment(body, "drainDeadline", *now)),
        ("build", field(body, "build")),
        ("attempt", field(body, "attempt")),
        ("task", field(body, "task")),
        ("metadata", field(body, "metadata")),
    ];
    let claims = entries(body, "claims").iter().map(|claim| {
        vec![
            field(claim, "player"),
            field(claim, "state"),
            field(claim, "live"),
            moment(claim, "expiresAt", *now),
            field(claim, "placement"),
        ]
    });
    let heading = ["PLAYER", "STATE", "LIVE", "EXPIRES", "PLACEMENT"];
    let claims = table_or_none(&heading, &[], claims.collect(), "no player holds a slot on this server");
    let rows = rows.map(|(name, value)| (name.to_owned(), value));
    View { json: body.clone(), text: format!("{}\n{claims}", list(&rows)) }
}

async fn drain(api: &Api, server: &str, deadline: Option<u32>, yes: Yes) -> Result<View, Failure> {
    ask::possible(&yes)?;
    if !yes.yes {
        let is = api.get(&["servers", server]).await?.body;
        let end = match deadline {
            Some(0) => "at once, even with players connected".to_owned(),
            Some(seconds) => {
                format!("once it is empty, or after {} even with players connected", long(seconds.into()))
            }
            None => "once it is empty".to_owned(),
        };
        let (pool, state) = (field(&is, "pool"), field(&is, "state"));
        let (connected, reserved) = (field(&is, "connected"), field(&is, "reserved"));
        say(&format!("{server} of `{pool}` is {state}: {connected} connected, {reserved} reserved."));
        ask::sure(&format!("Drain it, so that it accepts no new players and is stopped {end}?"))?;
    }
    let body = optional("deadlineSeconds", deadline);
    let Answer { body, now } = api.send(Method::POST, &["servers", server, "drain"], body.as_ref()).await?;
    let (connected, reserved) = (field(&body, "connected"), field(&body, "reserved"));
    let end = match time(&body, "deadline") {
        Some(_) => format!("once it is empty, at the latest {}", moment(&body, "deadline", now)),
        None => "once it is empty".to_owned(),
    };
    let text = format!("{server} is draining: {connected} connected, {reserved} reserved; it is stopped {end}\n");
    Ok(View { json: body, text })
}

// Players.

fn player_view(Answer { body, now }: &Answer) -> View {
    let (seat, claim) = (&body["seat"], &body["claim"]);
    let held = if claim.is_null() { "nothing".to_owned() } else { field(claim, "state") };
    let rows = [
        ("player", field(body, "player")),
        ("is", location(body)),
        ("seat", field(seat, "state")),
        ("seat's pool", field(seat, "pool")),
        ("seat's server", field(seat, "server")),
        ("seat's placement", field(seat, "placement")),
        ("server is", field(body, "serverState")),
        ("server holds", held),
        ("held live", field(claim, "live")),
        ("held until", moment(claim, "expiresAt", *now)),
        ("held placement", field(claim, "placement")),
    ];
    View { json: body.clone(), text: list(&rows.map(|(name, value)| (name.to_owned(), value))) }
}

/// Describes where a player is: the server of the seat, if that server's ledger has a live claim that matches the seat.
fn location(player: &Value) -> String {
    let (seat, claim) = (&player["seat"], &player["claim"]);
    let server = field(seat, "server");
    let held = claim["live"] == true && claim["placement"] == seat["placement"] && claim["state"] == seat["state"];
    match seat["state"].as_str() {
        Some("void") => "on no server".to_owned(),
        Some("connected") if held => format!("connected to {server}"),
        Some("reserved") if held => format!("reserved on {server}"),
        _ => format!("on no server: the seat names {server}, which has no live claim that matches it"),
    }
}

async fn release(api: &Api, player: &str, yes: Yes, json: bool) -> Result<(), Failure> {
    ask::possible(&yes)?;
    if !yes.yes {
        let is = api.get(&["players", player]).await?.body;
        ask::sure(&format!("{player} is {}. Release the player?", location(&is)))?;
    }
    api.send(Method::DELETE, &["players", player], None).await?;
    // The API answers without a body, so `--json` prints nothing.
    if json { Ok(()) } else { crate::show::out(&format!("{player} is released\n")) }
}
