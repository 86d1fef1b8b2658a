//! Orders the pulls, so that no large layer is unpacked twice.
//!
//! `host-ctr` pulls through containerd's client library. Two concurrent pulls download a shared layer once, but both unpack
//! it, and unpacking takes most of a pull's time. containerd unpacks layers from the lowest up, so two images share the
//! layers that both begin with.

use std::cmp::Reverse;

use prepull_domain::Bytes;
use prepull_registry::Layer;

/// Minimum size of the layers shared with an earlier image, in percent of the image, for which its pull waits. For less,
/// waiting costs more than unpacking twice. The value is an assumption and was not measured.
const WORTH_WAITING: u128 = 25;

/// Returns, for each image given by its layers, the position of the image that it waits for: the earlier image that shares
/// the most layers with it.
///
/// Smaller images come before larger ones. The shared layers then arrive early, and no cycle is possible.
pub(crate) fn predecessors(images: &[&[Layer]]) -> Vec<Option<usize>> {
    let order = |position: usize| (size(images[position]), position);
    (0..images.len())
        .map(|position| {
            let (shared, before) = (0..images.len())
                .filter(|other| order(*other) < order(position))
                .map(|other| (shared(images[other], images[position]), other))
                .max_by_key(|(shared, other)| (*shared, Reverse(order(*other))))?;
            let is_worth_it =
                u128::from(shared.0) * 100 >= u128::from(size(images[position]).0) * WORTH_WAITING;
            (shared.0 > 0 && is_worth_it).then_some(before)
        })
        .collect()
}

/// Returns the compressed size of layers.
pub(crate) fn size(layers: &[Layer]) -> Bytes {
    layers.iter().map(|layer| layer.size).sum()
}

/// Returns the compressed size of the layers that both images begin with.
fn shared(one: &[Layer], other: &[Layer]) -> Bytes {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one.digest == other.digest)
        .map(|(layer, _)| layer.size)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the predecessors of images whose layers are written as `digest size`.
    fn of(images: &[&[(&str, u64)]]) -> Vec<Option<usize>> {
        let images: Vec<Vec<_>> = images
            .iter()
            .map(|layers| {
                layers
                    .iter()
                    .map(|(digest, size)| Layer {
                        digest: (*digest).to_owned(),
                        size: Bytes(*size),
                    })
                    .collect()
            })
            .collect();
        let images: Vec<_> = images.iter().map(Vec::as_slice).collect();
        predecessors(&images)
    }

    #[test]
    fn images_with_a_shared_base_wait_for_the_smallest() {
        assert_eq!(
            of(&[
                &[("base", 50), ("a", 30)],
                &[("base", 50), ("b", 10)],
                &[("base", 50), ("c", 20)],
                &[("other", 50)],
            ]),
            [Some(1), None, Some(1), None]
        );
    }

    #[test]
    fn image_waits_for_the_one_with_most_shared_layers() {
        assert_eq!(
            of(&[
                &[("base", 50), ("a", 1)],
                &[("base", 50), ("java", 50), ("b", 1)],
                &[("base", 50), ("java", 50), ("c", 2)],
            ]),
            [None, Some(0), Some(1)]
        );
    }

    #[test]
    fn small_shared_part_causes_no_wait() {
        assert_eq!(
            of(&[&[("base", 24), ("a", 50)], &[("base", 24), ("b", 76)]]),
            [None, None]
        );
        assert_eq!(
            of(&[&[("base", 25), ("a", 50)], &[("base", 25), ("b", 75)]]),
            [None, Some(0)]
        );
    }

    #[test]
    fn shared_layer_above_different_layers_causes_no_wait() {
        assert_eq!(
            of(&[
                &[("x", 1), ("shared", 50)],
                &[("y", 2), ("shared", 50)],
                &[]
            ]),
            [None, None, None]
        );
    }

    #[test]
    fn references_to_one_image_wait_only_one_way() {
        assert_eq!(of(&[&[("a", 5)], &[("a", 5)]]), [None, Some(0)]);
    }
}
