//! Checks whether the images fit on the volume and in the manifest.

use prepull_domain::build::payload::PlannedImage;
use prepull_domain::node::FILL_LIMIT;
use prepull_domain::snapshot::manifest::{MAX_PARAMETER_BYTES, ManifestImage};
use prepull_domain::{Bytes, GiB};

/// Minimum space of a layer on the volume, in multiples of its compressed size. containerd keeps the compressed layer and
/// the unpacked one, which is not smaller.
///
/// This bound rejects only layers that can never fit. The weights of a model, for example, do not compress. If the images
/// pass this bound and still do not fit, pull-images fails with `DiskFull`.
const LEAST_EXPANSION: u64 = 2;

/// The same for common layers. Programs and libraries unpack to about three times their compressed size.
const USUAL_EXPANSION: u64 = 4;

/// Maximum bytes of a manifest without its images.
const MANIFEST_WITHOUT_IMAGES: usize = 1_800;

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

/// Rejects images whose manifest does not fit into a parameter.
pub(crate) fn in_manifest(images: &[PlannedImage]) -> Result<(), String> {
    let entries: Vec<_> = images.iter().map(ManifestImage::from).collect();
    let length = serde_json::to_vec(&entries)
        .expect("strings and numbers always serialize")
        .len();
    let most = MAX_PARAMETER_BYTES - MANIFEST_WITHOUT_IMAGES;
    if length <= most {
        return Ok(());
    }
    Err(format!(
        "the manifest of its {} images needs {length} bytes for them, more than {most}. Split the cache",
        images.len()
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

    #[test]
    fn too_many_images_exceed_the_manifest_parameter() {
        let image: PlannedImage = prepull_testing::target().images[0].clone();
        assert_eq!(in_manifest(&vec![image.clone(); 40]), Ok(()));
        let problem = in_manifest(&vec![image; 50]).unwrap_err();
        assert!(problem.contains("Split the cache"), "{problem}");
    }

    #[test]
    fn manifest_without_images_stays_within_its_limit() {
        let digest = "c".repeat(64);
        let manifest = serde_json::json!({
            "snapshot_id": "snap-0123456789abcdef0",
            "cache": "a".repeat(32),
            "architecture": "x86_64",
            "execution": "e".repeat(80),
            "content_key": digest,
            "images": [],
            "variant": "aws-k8s-1.33-fips",
            "node": {
                "bottlerocket_version": "100.100.100",
                "containerd_version": "v".repeat(64),
                "kernel_version": "k".repeat(64),
                "snapshotter": "overlayfs",
                "ready_at": "2026-01-02T03:04:05.123456789Z"
            },
            "base": {"kind": "empty", "reason": "r".repeat(300)},
            "volume_size": 16384,
            "used": u64::MAX,
            "packed": u64::MAX,
            "fresh": {"packed": u64::MAX, "used": u64::MAX},
            "instance_type": "i".repeat(32),
            "planned_at": "2026-01-02T03:04:05.123456789Z",
            "launched_at": "2026-01-02T03:04:05.123456789Z",
            "verified_at": "2026-01-02T03:04:05.123456789Z",
            "snapshot_started_at": "2026-01-02T03:04:05.123456789Z",
            "completed_at": "2026-01-02T03:04:05.123456789Z",
            "published_at": "2026-01-02T03:04:05.123456789Z"
        });
        let read: prepull_domain::Manifest = serde_json::from_value(manifest).unwrap();
        assert!(serde_json::to_vec(&read).unwrap().len() < MANIFEST_WITHOUT_IMAGES);
    }
}
