//! Values that no log and no error may show.

use std::fmt;

use reqwest::header::{HeaderValue, InvalidHeaderValue};

/// A text that is not shown: `Debug` prints `***`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value for a request's header, marked so that the HTTP layer does not show it either.
    pub(super) fn header(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&self.0)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// `text` with every one of `secrets` replaced by `***`.
pub(super) fn redact(text: &str, secrets: &[Secret]) -> String {
    secrets
        .iter()
        .filter(|secret| !secret.0.is_empty())
        .fold(text.to_owned(), |text, secret| text.replace(&secret.0, "***"))
}

#[cfg(test)]
mod tests {
    use super::{Secret, redact};

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", secret.header().unwrap()), "Sensitive");
        assert_eq!(redact("key hunter2!", &[secret, "".into()]), "key ***!");
    }
}
