//! `google.protobuf.Duration` and `Timestamp`: the forms that a sender may write them in.

use chrono::NaiveDate;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::{field, field_named, integer};
use crate::json;
use crate::violation::{Faults, excerpt};

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The largest duration of protobuf, in seconds, about 10,000 years.
const MAX_DURATION: u64 = 315_576_000_000;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, protobuf's first and last second.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Reads a duration: `"1800.5s"`, `{"seconds": 1800, "nanos": 500000000}`, or a number of seconds.
pub fn duration(value: &json::Value, descriptor: &MessageDescriptor, faults: &mut Faults) -> DynamicMessage {
    let parts = match value {
        json::Value::Object(members) => {
            let Some((seconds, nanos)) = parts(members, descriptor, faults) else {
                return DynamicMessage::new(descriptor.clone());
            };
            if nanos.unsigned_abs() >= NANOS_PER_SECOND.unsigned_abs() as u32 {
                Err("nanos is out of range (-999999999 to 999999999)".to_owned())
            } else if (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0) {
                Err("seconds and nanos must have the same sign".to_owned())
            } else {
                Ok((seconds, nanos))
            }
        }
        json::Value::String(text) => match text.strip_suffix('s').filter(|number| is_plain_decimal(number)) {
            Some(number) => duration_of_number(number),
            None => Err(format!("{:?} is no duration, write it as \"1800s\" or \"0.5s\"", excerpt(text))),
        },
        json::Value::Number(text) => duration_of_number(text),
        other => Err(other.mismatch("a duration, as \"1800s\" or 1800")),
    };
    let parts = parts.and_then(|(seconds, nanos)| {
        if seconds.unsigned_abs() <= MAX_DURATION { Ok((seconds, nanos)) } else { Err(too_long(&seconds.to_string())) }
    });
    build(parts, descriptor, faults)
}

/// Reads a timestamp: RFC 3339 text, or `{"seconds": 1, "nanos": 2}` since 1970.
pub fn timestamp(value: &json::Value, descriptor: &MessageDescriptor, faults: &mut Faults) -> DynamicMessage {
    let parts = match value {
        json::Value::Object(members) => {
            let Some((seconds, nanos)) = parts(members, descriptor, faults) else {
                return DynamicMessage::new(descriptor.clone());
            };
            if (0..NANOS_PER_SECOND as i32).contains(&nanos) {
                Ok((seconds, nanos))
            } else {
                Err("nanos is out of range (0 to 999999999)".to_owned())
            }
        }
        json::Value::String(text) => rfc3339(text).ok_or_else(|| {
            format!("{:?} is no time, write it as \"2030-01-31T23:59:59Z\" or with an offset as +02:00", excerpt(text))
        }),
        other => Err(other.mismatch("a time, as \"2030-01-31T23:59:59Z\"")),
    };
    let parts = parts.and_then(|(seconds, nanos)| match seconds {
        FIRST_SECOND..=LAST_SECOND => Ok((seconds, nanos)),
        _ => Err("the time is out of range (years 1 to 9999)".to_owned()),
    });
    build(parts, descriptor, faults)
}

fn build(parts: Result<(i64, i32), String>, descriptor: &MessageDescriptor, faults: &mut Faults) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    match parts {
        Ok((seconds, nanos)) => {
            message.set_field(&field(descriptor, "seconds"), Value::I64(seconds));
            message.set_field(&field(descriptor, "nanos"), Value::I32(nanos));
        }
        Err(reason) => faults.decoding(reason),
    }
    message
}

/// The members `seconds` and `nanos`. Seconds as text are refused here: Google's client takes them for no other int64
/// less than for this one.
fn parts(members: &[(String, json::Value)], descriptor: &MessageDescriptor, faults: &mut Faults) -> Option<(i64, i32)> {
    let before = faults.count();
    let (mut seconds, mut nanos) = (0, 0);
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in members {
        faults.member(key, |faults| {
            let Some(field) = field_named(descriptor, key) else {
                return faults.decoding("unknown field, did you mean seconds or nanos?");
            };
            if seen.contains(&key.as_str()) {
                faults.decoding("repeated key");
            } else {
                seen.push(key);
            }
            let read = match value {
                json::Value::Null => Ok(()),
                value if field.name() == "seconds" => {
                    integer(value, false, i64::MIN, i64::MAX).map(|read| seconds = read)
                }
                value => integer(value, false, i32::MIN, i32::MAX).map(|read| nanos = read),
            };
            if let Err(reason) = read {
                faults.decoding(reason);
            }
        });
    }
    (faults.count() == before).then_some((seconds, nanos))
}

/// Whether the text is `-?digits` with at most nine decimals and no needless zero in front.
fn is_plain_decimal(number: &str) -> bool {
    let unsigned = number.strip_prefix('-').unwrap_or(number);
    let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(decimals) && decimals.len() <= 9 && (whole == "0" || !whole.starts_with('0'))
}

/// Seconds and nanoseconds of a JSON number, exact from its digits; what is finer than a nanosecond is rounded, since a
/// sender's sum of floats easily is.
fn duration_of_number(number: &str) -> Result<(i64, i32), String> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let negative = mantissa.starts_with('-');
    let (whole, decimals) = mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('-');
    let digits = format!("{whole}{decimals}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok((0, 0));
    }
    // The number is 0.digits times ten to the power of `magnitude`, in nanoseconds.
    let leading_zeros = whole.len() + decimals.len() - digits.len();
    let exponent: i64 = exponent.parse().map_err(|_| too_long(number))?;
    let magnitude = (whole.len() as i64 - leading_zeros as i64).saturating_add(exponent).saturating_add(9);
    if magnitude > 21 {
        return Err(too_long(number));
    }
    if magnitude < 0 {
        return Ok((0, 0));
    }
    let magnitude = magnitude as usize;
    let mut nanos: i128 = 0;
    for position in 0..magnitude {
        let digit = digits.as_bytes().get(position).map_or(0, |digit| i128::from(digit - b'0'));
        nanos = nanos * 10 + digit;
    }
    if digits.as_bytes().get(magnitude).is_some_and(|digit| *digit >= b'5') {
        nanos += 1;
    }
    if negative {
        nanos = -nanos;
    }
    // At most 21 digits of nanoseconds are at most 12 digits of seconds.
    Ok(((nanos / NANOS_PER_SECOND) as i64, (nanos % NANOS_PER_SECOND) as i32))
}

fn too_long(seconds: &str) -> String {
    format!("{} s is out of range (-{MAX_DURATION} to {MAX_DURATION})", excerpt(seconds))
}

/// Seconds since 1970 and nanoseconds of `YYYY-MM-DDThh:mm:ss[.digits](Z|±hh:mm)`, in capitals and without leap seconds.
fn rfc3339(text: &str) -> Option<(i64, i32)> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, separator)| bytes[*at] != *separator) {
        return None;
    }
    let year = number(&text[..4])?;
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, number(&text[5..7])?, number(&text[8..10])?)?;
    let time = date.and_hms_opt(number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?)?;
    let rest = &text[19..];
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let end = rest.bytes().position(|byte| !byte.is_ascii_digit())?;
            let decimals = &rest[..end];
            if decimals.is_empty() || decimals.len() > 9 {
                return None;
            }
            (format!("{decimals:0<9}").parse().ok()?, &rest[end..])
        }
    };
    Some((time.and_utc().timestamp() - offset(zone)?, nanos))
}

/// Seconds east of UTC of `Z` or `±hh:mm`.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let bytes = zone.as_bytes();
    if bytes.len() != 6 || bytes[3] != b':' {
        return None;
    }
    let (hours, minutes) = (number(&zone[1..3])?, number(&zone[4..6])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = i64::from(hours * 3600 + minutes * 60);
    match bytes[0] {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
