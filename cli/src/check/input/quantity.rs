//! Kubernetes quantities of volumes.

use prepull_domain::Bytes;

/// Suffixes of a quantity with their factors. Binary suffixes come first, because `Gi` also ends with a decimal one.
///
/// Source: apimachinery, `pkg/api/resource/suffix.go`. The EC2NodeClass allows only `Gi`, `G`, `Ti` and `T`.
const SUFFIXES: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// Returns the bytes of a quantity such as `50Gi`.
///
/// # Errors
/// The reason, if it is not a whole number with a known suffix.
pub fn bytes(quantity: &str) -> Result<Bytes, String> {
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, *factor)))
        .unwrap_or((quantity, 1));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(Bytes)
        .ok_or_else(|| format!("`{quantity}` is not a size. Write a size such as `50Gi`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantity_parses_into_bytes() {
        for (quantity, expected) in [
            ("50Gi", 50 << 30),
            ("20G", 20_000_000_000),
            ("1Ti", 1 << 40),
            ("1024", 1024),
        ] {
            assert_eq!(bytes(quantity), Ok(Bytes(expected)), "{quantity}");
        }
        for wrong in ["", "Gi", "50 Gi", "-1Gi", "99999999999999Ti", "fifty"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
