//! Durations, sizes and names as the configuration writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// Reads `500ms`, `30s`, `5m`, `4h`, `5d`.
///
/// # Errors
/// The text says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let milliseconds = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        "d" => 86400e3,
        _ => {
            return Err(format!(
                "{text:?} is not a duration: write a number and ms, s, m, h or d, such as \"5m\""
            ));
        }
    };
    Ok(Duration::from_millis((number * milliseconds).round() as u64))
}

/// Reads `512KiB`, `25MiB`, `1GiB`, `1000B` (binary units; KB, MB and GB are decimal).
///
/// # Errors
/// The text says what is accepted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "B" => 1.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => {
            return Err(format!(
                "{text:?} is not a size: write a number and B, KiB, MiB or GiB, such as \"25MiB\""
            ));
        }
    };
    Ok((number * factor).round() as u64)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [("d", 86_400_000u128), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let fits = units.iter().find(|(_, length)| milliseconds != 0 && milliseconds.is_multiple_of(*length));
    fits.map_or_else(|| "0s".to_owned(), |(unit, length)| format!("{}{unit}", milliseconds / length))
}

/// Writes a number of octets as [`parse_size`] reads it, in the largest binary unit that divides it.
pub fn format_size(octets: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let fits = units.iter().find(|(_, length)| octets != 0 && octets.is_multiple_of(*length));
    fits.map_or_else(|| "0B".to_owned(), |(unit, length)| format!("{}{unit}", octets / length))
}

fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    if number > 1e12 {
        return Err(format!("{text:?} is too large"));
    }
    Ok((number, unit.trim()))
}

/// For `#[serde(deserialize_with)]` on a [`Duration`].
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For `#[serde(deserialize_with)]` on a number of octets.
pub(crate) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A domain name as a string.
pub(crate) mod domain {
    use super::*;
    use postern_smtp::Domain;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Domain, D::Error> {
        let text = String::deserialize(deserializer)?;
        Domain::parse(&text).map_err(|e| D::Error::custom(format!("{text:?} is not a domain name: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_size("25MiB"), Ok(25 * 1024 * 1024));
        for text in ["5", "m", "5 weeks", "-1s", ""] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_size("5m").is_err());
    }

    #[test]
    fn units_are_written_as_they_are_read() {
        for text in ["0s", "250ms", "90s", "5m", "4h", "5d"] {
            assert_eq!(parse_duration(text).map(format_duration).as_deref(), Ok(text));
        }
        for text in ["0B", "1000B", "128KiB", "50MiB", "3GiB"] {
            assert_eq!(parse_size(text).map(format_size).as_deref(), Ok(text));
        }
    }
}
