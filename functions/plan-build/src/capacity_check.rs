//! Checks whether the images fit on the volume, into commands and into the plan.

use prepull_domain::build::payload::{PlannedImage, Target};
use prepull_domain::node::{FILL_LIMIT, MAX_NAMES_BYTES};
use prepull_domain::{Bytes, GiB, pages};

/// Minimum space of a layer on the volume, in multiples of its compressed size. containerd keeps the compressed layer and
/// the unpacked one, which is not smaller.
///
/// This bound rejects only layers that can never fit. The weights of a model, for example, do not compress. If the images
/// pass this bound and still do not fit, pull-images fails with `DiskFull`.
const LEAST_EXPANSION: u64 = 2;

/// The same for common layers. Programs and libraries unpack to about three times their compressed size.
const USUAL_EXPANSION: u64 = 4;

/// Maximum bytes of a plan's targets. Step Functions allows 256 KiB for the result of a task. The difference is for the
/// response of Lambda around the plan, and for what other stages add to a target.
///
/// Source: Step Functions developer guide, "Quotas": maximum input or output size for a task, state, or execution.
const MAX_PLAN_BYTES: usize = 240 * 1_024;

/// Rejects a volume of `size` that cannot hold layers of `packed` bytes.
pub(crate) fn on_volume(packed: Bytes, size: GiB) -> Result<(), String> {
    if size_for(packed, LEAST_EXPANSION) <= size {
        return Ok(());
    }
    let wanted = size_for(packed, USUAL_EXPANSION);
    Err(format!(
        "`volume.size_gib` is {size}, too small for the images. Their layers are {packed} compressed, the volume \
         holds them packed and unpacked, and at most {FILL_LIMIT} % of it may be used. Set it to {} or more",
        wanted.0
    ))
}

/// Returns the smallest volume that stays below the limit with layers of `packed` bytes that grow by `expansion`.
fn size_for(packed: Bytes, expansion: u64) -> GiB {
    let used = packed.0.saturating_mul(expansion);
    let size = used.saturating_mul(100).div_ceil(FILL_LIMIT);
    GiB(u32::try_from(size.div_ceil(1 << 30)).unwrap_or(u32::MAX))
}

/// Rejects images whose names do not fit into a command for a builder.
pub(crate) fn in_commands(images: &[PlannedImage]) -> Result<(), String> {
    let requests = images
        .iter()
        .map(|image| image.reference.status_request(&image.digest).len() + " ".len());
    let bytes: usize = requests.sum();
    if bytes <= MAX_NAMES_BYTES {
        return Ok(());
    }
    Err(format!(
        "the names of its {} images have {bytes} bytes, and a command for the builder has room for \
         {MAX_NAMES_BYTES}. Split the cache, or shorten the names",
        images.len()
    ))
}

/// Rejects targets that are too large for the state machine.
pub(crate) fn in_payload(targets: &[Target]) -> Result<(), String> {
    let bytes = pages::json_bytes(&targets);
    if bytes <= MAX_PLAN_BYTES {
        return Ok(());
    }
    Err(format!(
        "its plan has {bytes} bytes, and the state machine accepts {MAX_PLAN_BYTES}. Split the cache, or shorten the \
         names of its images"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_too_small_for_incompressible_layers_is_rejected() {
        let gib = |n: u64| Bytes(n << 30);
        assert_eq!(on_volume(gib(20), GiB(50)), Ok(()));
        let problem = on_volume(Bytes(gib(20).0 + 1), GiB(50)).unwrap_err();
        assert!(problem.contains("Set it to 101 or more"), "{problem}");
        assert_eq!(on_volume(Bytes(0), GiB(2)), Ok(()));
    }

    /// Returns `count` images with references of `length` characters.
    fn images(count: usize, length: usize) -> Vec<PlannedImage> {
        let image = &prepull_testing::target().images[0];
        (0..count)
            .map(|n| {
                let rest = "registry.example.com//000:v1".len();
                let name = "p".repeat(length - rest);
                PlannedImage {
                    reference: format!("registry.example.com/{name}/{n:03}:v1")
                        .parse()
                        .unwrap(),
                    size: Bytes(1 << 40),
                    after: Some(199),
                    on_base: true,
                    ..image.clone()
                }
            })
            .collect()
    }

    /// Returns the targets of both architectures with these images.
    fn targets(images: &[PlannedImage]) -> Vec<Target> {
        let target = Target {
            images: images.to_vec(),
            ..prepull_testing::target()
        };
        vec![target.clone(), target]
    }

    #[test]
    fn largest_cache_with_names_of_125_characters_fits() {
        let images = images(200, 125);
        assert_eq!(in_commands(&images), Ok(()));
        assert_eq!(in_payload(&targets(&images)), Ok(()));
        // docs/scale.md has these figures.
        let plan = pages::json_bytes(&targets(&images));
        assert!((140_000..150_000).contains(&plan), "{plan}");
    }

    #[test]
    fn too_long_names_exceed_the_command_and_the_payload() {
        let problem = in_commands(&images(200, 255)).unwrap_err();
        assert!(problem.contains("Split the cache"), "{problem}");
        assert_eq!(in_payload(&targets(&images(200, 255))), Ok(()));
        let problem = in_payload(&targets(&images(300, 255))).unwrap_err();
        assert!(problem.contains("Split the cache"), "{problem}");
    }
}
