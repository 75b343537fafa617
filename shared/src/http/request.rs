//! Parses API Gateway's requests into the domain's types.

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

/// Longest body that is parsed, in bytes. The longest valid one is a heartbeat: 1,000 player ids of 128 characters,
/// which are 132,000 bytes with spaces.
pub const MAX_BODY_BYTES: usize = 192 * 1024;
/// Longest bearer token that is checked, in bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// Returns the calling player: the `sub` of the token that the JWT authorizer has verified, never a field of the body.
///
/// # Errors
/// The request passed no JWT authorizer, or `sub` is not a player id.
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

/// Checks that the request passed the gateway's IAM authorizer, as those of operators and trusted backends do.
///
/// # Errors
/// The request passed no IAM authorizer.
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

/// Returns the bearer token of a request.
///
/// # Errors
/// There is no bearer token, or it is too long.
pub fn bearer(request: &Request) -> Result<&str, Problem> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|header| header.split_once(' ')).unwrap_or_default();
    let in_range = (1..=MAX_TOKEN_BYTES).contains(&token.len());
    if scheme.eq_ignore_ascii_case("bearer") && in_range { Ok(token) } else { Err(unauthorized("the token")) }
}

/// Returns the hash of the calling server's token. The condition of the write that follows checks the hash.
///
/// # Errors
/// There is no bearer token.
pub fn server_token(request: &Request) -> Result<TokenHash, Problem> {
    bearer(request).map(TokenHash::of).map_err(|_| unauthorized("the server's token"))
}

/// Returns a path parameter as an id. The only place where a path is percent-decoded.
///
/// # Errors
/// The decoded parameter is not UTF-8, or not an id.
pub fn path<T>(request: &Request, name: &str, parse: impl FnOnce(&str) -> Result<T, BadId>) -> Result<T, Problem> {
    let parameters = request.path_parameters_ref();
    let raw = parameters.and_then(|parameters| parameters.first(name)).unwrap_or_default();
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Problem::new(Code::InvalidParameter, format!("`{name}` is not UTF-8.")))?;
    Ok(parse(&text)?)
}

/// Returns the last segment of a path below a pool, such as `servers` of `/pools/{pool}/servers`; `None` for other
/// paths.
///
/// Only the position decides, because a pool may have the name `servers` too.
pub fn resource(request: &Request) -> Option<&str> {
    match request.uri().path().split('/').collect::<Vec<_>>().as_slice() {
        [.., "pools", _, what] => Some(what),
        _ => None,
    }
}

/// Returns a query parameter as a whole number; `None` if it is absent.
///
/// # Errors
/// The parameter is not a whole number, or not in `range`.
pub fn query(request: &Request, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
    let parameters = request.query_string_parameters_ref();
    let Some(raw) = parameters.and_then(|parameters| parameters.first(name)) else { return Ok(None) };
    let number = raw.parse().ok().filter(|number| range.contains(number));
    let (from, to) = (range.start(), range.end());
    let bad = || Problem::new(Code::InvalidParameter, format!("`{name}` must be a whole number from {from} to {to}."));
    number.map(Some).ok_or_else(bad)
}

/// Returns a query parameter as an id; `None` if it is absent.
///
/// # Errors
/// The parameter is not an id.
pub fn query_text<T>(
    request: &Request,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, BadId>,
) -> Result<Option<T>, Problem> {
    let parameters = request.query_string_parameters_ref();
    Ok(parameters.and_then(|parameters| parameters.first(name)).map(parse).transpose()?)
}

/// Returns the source address of the request, as API Gateway saw it.
///
/// A caller cannot forge the address, but it may be that of a NAT or proxy between caller and gateway.
///
/// # Errors
/// The request has no source address.
pub fn source_address(request: &Request) -> Result<IpAddr, Problem> {
    let source = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.as_deref(),
        _ => None,
    };
    let unknown = || Problem::new(Code::InvalidBody, "The request has no source address. Send `address` in the body.");
    source.and_then(|source| source.parse().ok()).ok_or_else(unknown)
}

/// Deserializes an optional field of a body that may be absent (`None`) but not `null`.
///
/// # Errors
/// The value is not a `T`.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Deserializes a JSON object and refuses arrays, which serde's derived code would accept for a struct.
///
/// # Errors
/// The value is not an object, or not a `T`.
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

/// Returns the bytes of the body.
///
/// # Errors
/// The body is longer than [`MAX_BODY_BYTES`].
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

/// Parses the body as a JSON object; `None` if the body is empty.
///
/// # Errors
/// The body is too long, not JSON, or not a `T`; the detail names the place.
pub fn json_body<T: DeserializeOwned>(request: &Request) -> Result<Option<T>, Problem> {
    let bytes = body(request)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let refused = |bad: BadJson| Problem::new(Code::InvalidBody, format!("{}.", bad.of("The body")));
    parse_object(bytes).map(Some).map_err(refused)
}

/// Parses a text that is exactly one JSON object.
///
/// # Errors
/// The text is not JSON, or not a `T`.
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
    fn an_error_about_an_invalid_body_says_what_was_expected_and_found_and_where() {
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
        for (body, detail) in [
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
            assert_eq!((problem.code, problem.detail), (Code::InvalidBody, detail), "{body}");
        }
        assert!(json_body::<Settings>(&Request::new(Body::Empty)).unwrap().is_none());
        assert!(json_body::<Settings>(&Request::new(Body::Text("\n{}\n".to_owned()))).unwrap().is_some());
    }

    #[test]
    fn a_request_without_a_source_address_is_refused() {
        let problem = source_address(&Request::new(Body::Empty)).err();
        assert_eq!(problem.map(|problem| problem.code), Some(Code::InvalidBody));
    }
}
