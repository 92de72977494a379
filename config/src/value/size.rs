//! Sizes: `512`, `64KiB`, `25MiB`.

use validator::ValidateRange;

use super::Value;

const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Size(u64);

impl Size {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many times 1024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// This many times 1024 × 1024 bytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes; all that can be addressed, where it is more than that.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl ValidateRange<Self> for Size {
    fn greater_than(&self, max: Self) -> Option<bool> {
        Some(*self > max)
    }

    fn less_than(&self, min: Self) -> Option<bool> {
        Some(*self < min)
    }
}

impl Value for Size {
    const KIND: &'static str = "size";
    const HINT: &'static str = "a size, such as `512B`, `64KiB` or `25MiB`";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("is not a size".to_owned());
        }
        let number: u64 = number.parse().ok().ok_or("is too large")?;
        let unit = if unit.is_empty() { "B" } else { unit.trim() };
        let Some((_, bytes)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))
        else {
            return Err("is not a size".to_owned());
        };
        Ok(Self(number.checked_mul(*bytes).ok_or("is too large")?))
    }

    fn show(&self) -> Option<String> {
        let fits = |(_, unit): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().rev().find(fits).unwrap_or(&("B", 1));
        Some(format!("{}{name}", self.0 / unit))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_is_read() {
        assert_eq!(Size::parse("512"), Ok(Size::from_bytes(512)));
        assert_eq!(Size::parse("64KiB"), Ok(Size::from_kib(64)));
        assert_eq!(Size::parse("25 mib"), Ok(Size::from_mib(25)));
        assert_eq!(Size::parse("1GiB").map(Size::bytes), Ok(1 << 30));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "KiB", "-1", "1.5MiB", "5MB", "99999999999999999999", "99999999999GiB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes: u64) {
            let size = Size::from_bytes(bytes);
            prop_assert_eq!(Size::parse(&size.show().unwrap()), Ok(size));
        }
    }
}
