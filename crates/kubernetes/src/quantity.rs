//! Kubernetes quantities as sizes of EBS volumes.

use prepull_domain::GiB;

/// Parses a quantity and rounds it up to GiB, like Karpenter (`volumeSize` in
/// `pkg/providers/launchtemplate/launchtemplate.go` of aws/karpenter-provider-aws). `None` if it is not a positive
/// quantity, or too large.
///
/// Source of the grammar: `staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go` of kubernetes/kubernetes.
pub(crate) fn gib(text: &str) -> Option<GiB> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let numerator = digits.checked_mul(factor)?;
    let denominator = power(10, u32::try_from(fraction.len()).ok()?)?
        .checked_mul(divisor)?
        .checked_mul(1 << 30)?;
    let size = u32::try_from(numerator.div_ceil(denominator)).ok()?;
    (size > 0).then_some(GiB(size))
}

/// Returns the factor and the divisor of a suffix.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |exponent| Some((power(1024, exponent)?, 1));
    let decimal = |exponent| Some((power(10, exponent)?, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, power(10, 9)?)),
        "u" => Some((1, power(10, 6)?)),
        "m" => Some((1, power(10, 3)?)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            // `parse` accepts a sign, as the grammar does.
            let exponent: i32 = exponent.parse().ok()?;
            let size = power(10, exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, size) } else { (size, 1) })
        }
    }
}

fn power(base: u128, exponent: u32) -> Option<u128> {
    base.checked_pow(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantity_becomes_gib_rounded_up() {
        for (text, expected) in [
            ("50Gi", 50),
            ("1Ti", 1024),
            ("0.5Ti", 512),
            (".5Ti", 512),
            ("1.Ti", 1024),
            ("51200Mi", 50),
            ("51201Mi", 51),
            ("1Ki", 1),
            // 50e9 bytes are 46.57 GiB, and 200 GB are 187 GiB in Karpenter's own test.
            ("50G", 47),
            ("200G", 187),
            ("4G", 4),
            ("1T", 932),
            ("53687091200", 50),
            ("53687091201", 51),
            ("53687091200000m", 50),
            ("5e10", 47),
            ("5E10", 47),
            ("5e+10", 47),
            ("50000e6", 47),
            ("53687091200e0", 50),
            ("+50Gi", 50),
            ("50.0Gi", 50),
        ] {
            assert_eq!(gib(text), Some(GiB(expected)), "{text}");
        }
    }

    #[test]
    fn text_without_a_positive_quantity_is_refused() {
        for text in [
            "",
            "Gi",
            ".",
            "-50Gi",
            "0",
            "0Gi",
            "50gi",
            "50GB",
            "50 Gi",
            "1.2.3Gi",
            "5e",
            "5e1.5",
            "99999999999Ei",
            "1e99",
            "fifty",
            "५0Gi",
        ] {
            assert_eq!(gib(text), None, "{text}");
        }
    }
}
