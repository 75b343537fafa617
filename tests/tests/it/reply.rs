//! An HTTP response, with assertions on its status and problem code.

use reqwest::StatusCode;
use serde_json::Value;

/// Response of the API.
#[derive(Debug)]
pub struct Reply {
    /// The request, which a failed assertion prints.
    #[expect(dead_code, reason = "read in the Debug form only")]
    pub request: String,
    pub status: StatusCode,
    pub retry_after: Option<i64>,
    pub content_type: String,
    pub body: Value,
}

impl Reply {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn server(&self) -> &str {
        self.body["server"]["id"].as_str().unwrap_or_else(|| panic!("no server in {self:?}"))
    }

    pub fn ticket(&self) -> &str {
        self.body["ticket"].as_str().unwrap_or_else(|| panic!("no ticket in {self:?}"))
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self:?}");
        assert_eq!(self.content_type, "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert!(self.body["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{self:?}");
        self
    }
}
