//! The contract's environment variables. Reading them is the application's business: tests and tools pass other values.

use std::str::FromStr;

/// Names the port to listen on, on all interfaces; absent: [`DEFAULT_PORT`].
pub const PORT: &str = "PORT";

/// The port of the contract when `PORT` is not set.
pub const DEFAULT_PORT: u16 = 8080;

/// Names the [`SignatureType`]; absent: `http`.
pub const FUNCTION_SIGNATURE_TYPE: &str = "FUNCTION_SIGNATURE_TYPE";

/// What a function takes, as `FUNCTION_SIGNATURE_TYPE` spells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureType {
    /// `http`: requests as they come, for [`serve_http`](crate::serve_http).
    #[default]
    Http,
    /// `cloudevent`: events, for [`serve`](crate::serve).
    CloudEvent,
}

/// The value of `FUNCTION_SIGNATURE_TYPE` is none that this framework serves (`event`, the legacy signature, is none either).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FUNCTION_SIGNATURE_TYPE} is `{0}`: expected `http` or `cloudevent`")]
pub struct UnknownSignatureType(String);

impl FromStr for SignatureType {
    type Err = UnknownSignatureType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "http" => Ok(Self::Http),
            "cloudevent" => Ok(Self::CloudEvent),
            _ => Err(UnknownSignatureType(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_types_are_spelled_as_in_the_contract() {
        assert_eq!("http".parse(), Ok(SignatureType::Http));
        assert_eq!("cloudevent".parse(), Ok(SignatureType::CloudEvent));
        for name in ["", "HTTP", "event", "cloudevents"] {
            let error = name.parse::<SignatureType>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
}
