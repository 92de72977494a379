//! Durations: `250ms`, `5s`, `10m`, `72h`, `30d`.

use std::time::Duration;

use super::Value;

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A hundred years: what is longer overflows when it is added to a time.
const LONGEST: u64 = 36_500 * 86_400_000;

/// Below this many milliseconds (a week) hours read better than days: `72h`.
const DAYS_FROM: u64 = 7 * 86_400_000;

impl Value for Duration {
    const KIND: &'static str = "duration";
    const HINT: &'static str = "a duration, such as `250ms`, `5s`, `10m`, `72h` or `30d`";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("is not a duration".to_owned());
        }
        let number: u64 = number.parse().ok().ok_or("is too long")?;
        let unit = unit.trim();
        if unit.is_empty() && number != 0 {
            return Err("is a duration without a unit".to_owned());
        }
        if unit.is_empty() {
            return Ok(Self::ZERO);
        }
        let Some((_, milliseconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err("is not a duration".to_owned());
        };
        match number.checked_mul(*milliseconds) {
            Some(milliseconds) if milliseconds <= LONGEST => Ok(Self::from_millis(milliseconds)),
            _ => Err("is too long".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        let milliseconds = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 {
            return Some("0s".to_owned());
        }
        let fits = |(name, unit): &&(&str, u64)| {
            milliseconds.is_multiple_of(*unit) && (*name != "d" || milliseconds >= DAYS_FROM)
        };
        UNITS.iter().rev().find(fits).map(|(name, unit)| format!("{}{name}", milliseconds / unit))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_is_read() {
        assert_eq!(Duration::parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(Duration::parse("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(Duration::parse(" 10 m "), Ok(Duration::from_mins(10)));
        assert_eq!(Duration::parse("72h"), Ok(Duration::from_hours(72)));
        assert_eq!(Duration::parse("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(Duration::parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for bad in ["", "5", "s", "fast", "-1s", "1.5s", "5 sec", "5S", "99999999999999999999s"] {
            assert!(Duration::parse(bad).is_err(), "{bad}");
        }
        assert!(Duration::parse("36501d").is_err());
        assert!(Duration::parse(&format!("{}d", u64::MAX)).is_err());
    }

    #[test]
    fn a_duration_is_shown_in_the_unit_people_use() {
        for text in ["250ms", "10s", "1500ms", "15m", "72h", "7d", "30d", "0s"] {
            assert_eq!(Duration::parse(text).unwrap().show().unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(milliseconds in 0..=LONGEST) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(Duration::parse(&duration.show().unwrap()), Ok(duration));
        }
    }
}
