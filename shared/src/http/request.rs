//! From API Gateway's request to types.

use std::net::IpAddr;

use lambda_http::{Body, Request, RequestExt, http::header::AUTHORIZATION, request::RequestContext};
use percent_encoding::percent_decode_str;
use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{BadJson, Code, Problem};
use crate::domain::{BadId, PlayerId, TokenHash};

/// The longest body that is looked at, in bytes: a heartbeat's 1,000 names of 128 characters are 132,000, with spaces.
pub const MAX_BODY_BYTES: usize = 192 * 1024;
/// The longest bearer token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// The player who calls: the `sub` of the token that the JWT authorizer has checked. Never a field of the body.
///
/// # Errors
/// There was no authorizer, or `sub` is not a player id.
pub fn player(request: &Request) -> Result<PlayerId, Problem> {
    let context = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context,
        _ => return Err(unauthorized("the identity provider's token")),
    };
    let jwt = context.authorizer.as_ref().and_then(|authorizer| authorizer.jwt.as_ref());
    let sub = jwt.and_then(|jwt| jwt.claims.get("sub")).ok_or_else(|| unauthorized("the identity provider's token"))?;
    PlayerId::parse(sub)
        .map_err(|bad| Problem::new(Code::Forbidden, format!("The token's `sub` cannot be used: {bad}.")))
}

/// That the caller has passed the gateway's IAM authorizer: operators and trusted backends.
///
/// # Errors
/// The caller has not.
pub fn operator(request: &Request) -> Result<(), Problem> {
    let iam = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            context.authorizer.as_ref().and_then(|authorizer| authorizer.iam.as_ref())
        }
        _ => None,
    };
    let refused =
        || Problem::new(Code::Forbidden, "Sign the request with AWS credentials (SigV4) that allow this call.");
    iam.map(|_| ()).ok_or_else(refused)
}

fn unauthorized(what: &str) -> Problem {
    Problem::new(Code::Unauthorized, format!("Send `Authorization: Bearer` with {what}."))
}

/// The bearer token of a request.
///
/// # Errors
/// There is none, or it is out of range.
pub fn bearer(request: &Request) -> Result<&str, Problem> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|header| header.split_once(' ')).unwrap_or_default();
    let in_range = (1..=MAX_TOKEN_BYTES).contains(&token.len());
    if scheme.eq_ignore_ascii_case("bearer") && in_range { Ok(token) } else { Err(unauthorized("the token")) }
}

/// The token of the server that calls, as its hash. Whether it is the right one is decided by the write that it is part
/// of.
///
/// # Errors
/// There is no bearer token.
pub fn server_token(request: &Request) -> Result<TokenHash, Problem> {
    bearer(request).map(TokenHash::of).map_err(|_| unauthorized("the server's token"))
}

/// A path parameter as an id. The one place where a path is percent-decoded.
///
/// # Errors
/// It is not UTF-8 once decoded, or not an id.
pub fn path<T>(request: &Request, name: &str, parse: impl FnOnce(&str) -> Result<T, BadId>) -> Result<T, Problem> {
    let parameters = request.path_parameters_ref();
    let raw = parameters.and_then(|parameters| parameters.first(name)).unwrap_or_default();
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Problem::new(Code::InvalidParameter, format!("`{name}` is not UTF-8.")))?;
    Ok(parse(&text)?)
}

/// What of a pool a path is about: `servers` of `/pools/{pool}/servers`; `None` if it is about something else, or about
/// the pool as a whole. Names of pools may be any of these words.
pub fn resource(request: &Request) -> Option<&str> {
    match request.uri().path().split('/').collect::<Vec<_>>().as_slice() {
        [.., "pools", _, what] => Some(what),
        _ => None,
    }
}

/// A query parameter as a whole number in a range; `None` if it is not there.
///
/// # Errors
/// It is no number, or out of range.
pub fn query(request: &Request, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
    let parameters = request.query_string_parameters_ref();
    let Some(raw) = parameters.and_then(|parameters| parameters.first(name)) else { return Ok(None) };
    let number = raw.parse().ok().filter(|number| range.contains(number));
    let (from, to) = (range.start(), range.end());
    let bad = || Problem::new(Code::InvalidParameter, format!("`{name}` must be a whole number from {from} to {to}."));
    number.map(Some).ok_or_else(bad)
}

/// A query parameter as an id; `None` if it is not there.
///
/// # Errors
/// It is not an id.
pub fn query_text<T>(
    request: &Request,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, BadId>,
) -> Result<Option<T>, Problem> {
    let parameters = request.query_string_parameters_ref();
    Ok(parameters.and_then(|parameters| parameters.first(name)).map(parse).transpose()?)
}

/// The address that the request came from, as API Gateway has seen it: a caller cannot choose it, but what stands between
/// (NAT, a proxy) may have put its own there.
///
/// # Errors
/// The gateway does not say.
pub fn source_address(request: &Request) -> Result<IpAddr, Problem> {
    let source = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.as_deref(),
        _ => None,
    };
    let unknown = || Problem::new(Code::InvalidBody, "Where the request came from is not known: name the address.");
    source.and_then(|source| source.parse().ok()).ok_or_else(unknown)
}

/// For an optional field of a body: absent is `None`, and `null` is not absent but of the wrong type.
///
/// # Errors
/// The value is not a `T`.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// For a value that is an object. What serde derives for a struct takes an array of its fields too.
///
/// # Errors
/// The value is no object, or not a `T`.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(fields))
        }
    }
    deserializer.deserialize_map(Object(PhantomData))
}

/// The body's bytes.
///
/// # Errors
/// There are too many.
pub fn body(request: &Request) -> Result<&[u8], Problem> {
    let bytes = match request.body() {
        Body::Text(text) => text.as_bytes(),
        Body::Binary(bytes) => bytes,
        _ => &[],
    };
    if bytes.len() > MAX_BODY_BYTES {
        return Err(Problem::new(Code::BodyTooLarge, format!("A body has at most {MAX_BODY_BYTES} bytes.")));
    }
    Ok(bytes)
}

/// The body as JSON; `None` if there is no body.
///
/// # Errors
/// It is too long, not JSON, or not of the call's shape; the detail says where.
pub fn json_body<T: DeserializeOwned>(request: &Request) -> Result<Option<T>, Problem> {
    let bytes = body(request)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let refused = |bad: BadJson| Problem::new(Code::InvalidBody, format!("{}.", bad.of("The body")));
    parse_object(bytes).map(Some).map_err(refused)
}

/// A JSON object, and nothing after it.
///
/// # Errors
/// It is not JSON, or not of that shape.
pub fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    struct Object<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            object(deserializer).map(Self)
        }
    }
    if let Some(bad) = BadJson::no_object(bytes) {
        return Err(bad);
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(parsed) = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| BadJson::new(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| BadJson::new(".", &error))?;
    Ok(parsed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_body_is_said_in_words_with_its_place() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            #[serde(rename = "capacity")]
            _capacity: Option<i64>,
            #[serde(rename = "port")]
            _port: Option<u16>,
            #[serde(rename = "players")]
            _players: Option<Vec<String>>,
        }
        const OBJECT: &str = r#"expected an object, as in {"name": "value"}"#;
        const VALUE: &str =
            "expected a value: a string in double quotes, a number, true, false, null, a list or an object";
        const FIELD: &str = r#"expected the name of a field in double quotes, as in {"name": "value"}"#;
        for (body, says) in [
            (" \n ", format!("The body is refused: {OBJECT}, found the end of the text, at line 2, column 2.")),
            ("[]", format!("The body is refused: {OBJECT}, found `[`, at line 1, column 1.")),
            ("not JSON", format!("The body is refused: {OBJECT}, found `n`, at line 1, column 1.")),
            ("\n  \u{0}", format!(r"The body is refused: {OBJECT}, found `\0`, at line 2, column 3.")),
            ("{", "The body is not valid JSON: expected the rest of an object and its `}`, found the end of the text, at line 1, column 1.".into()),
            ("{a", format!("The body is not valid JSON: {FIELD}, at line 1, column 2.")),
            (r#"{"capacity": 5,}"#, "The body is not valid JSON: expected another entry after the comma, or no comma, at line 1, column 16.".into()),
            (r#"{"players": ["a",]}"#, "The body is not valid JSON in `players`: expected another entry after the comma, or no comma, at line 1, column 18.".into()),
            (r#"{"players": ["a"#, "The body is not valid JSON in `players[0]`: expected the rest of a string and its closing `\"`, found the end of the text, at line 1, column 15.".into()),
            (r#"{"capacity": NaN}"#, format!("The body is not valid JSON in `capacity`: {VALUE}, at line 1, column 14.")),
            (r#"{"capacity": }"#, format!("The body is not valid JSON in `capacity`: {VALUE}, at line 1, column 14.")),
            (r#"{"capacity" 5}"#, "The body is not valid JSON: expected `:`, at line 1, column 13.".into()),
            ("{} {}", "The body is not valid JSON: expected nothing after the object, at line 1, column 4.".into()),
            ("{\n  \"capacity\": \"5\"\n}", "`capacity` is refused: expected a whole number, found string \"5\", at line 2, column 17.".into()),
            (r#"{"port": 65536}"#, "`port` is refused: expected a whole number from 0 to 65535, found integer `65536`, at line 1, column 14.".into()),
            (r#"{"players": {}}"#, "`players` is refused: expected a list, found an object, at line 1, column 12.".into()),
            (r#"{"players": [["a, expected b"]]}"#, "`players[0]` is refused: expected a string, found a list, at line 1, column 13.".into()),
            (r#"{"capacty": 5}"#, "`capacty` is refused: unknown field `capacty`, expected one of `capacity`, `port`, `players`, at line 1, column 10.".into()),
        ] {
            let request = Request::new(Body::Text(body.to_owned()));
            let problem = json_body::<Settings>(&request).unwrap_err();
            assert_eq!((problem.code, problem.detail), (Code::InvalidBody, says), "{body}");
        }
        assert!(json_body::<Settings>(&Request::new(Body::Empty)).unwrap().is_none());
        assert!(json_body::<Settings>(&Request::new(Body::Text("\n{}\n".to_owned()))).unwrap().is_some());
    }

    #[test]
    fn a_request_that_came_from_nowhere_has_no_address() {
        let problem = source_address(&Request::new(Body::Empty)).err();
        assert_eq!(problem.map(|problem| problem.code), Some(Code::InvalidBody));
    }
}
