//! The images, which are the same in every run. Their layers compress like real ones.

use std::collections::BTreeSet;

use anyhow::Result;
use prepull_domain::Bytes;
use prepull_tests::{Image, Layer, World};

use crate::ARCHITECTURE;
use crate::options::Options;

const TAG: &str = "v1";

/// Services of a company that builds on two bases.
const SERVICES: [(&str, &str); 8] = [
    ("api", "debian"),
    ("worker", "debian"),
    ("scheduler", "debian"),
    ("gateway", "debian"),
    ("search", "python"),
    ("reports", "python"),
    ("mailer", "python"),
    ("billing", "python"),
];

/// The service that changes.
const CHANGING: usize = 0;

/// Megabytes (10^6 bytes) of layers, compressed.
struct Sizes {
    base: usize,
    dependencies: usize,
    program: usize,
}

pub struct Images {
    sizes: Sizes,
    /// The images of the containers on nodes, in megabytes.
    starting: Vec<usize>,
}

pub fn reference(host: &str, repository: &str) -> String {
    format!("{host}/{repository}:{TAG}")
}

fn service(name: &str) -> String {
    format!("bench/{name}")
}

fn starting(megabytes: usize) -> String {
    format!("bench/start-{megabytes}")
}

impl Images {
    pub fn new(options: &Options) -> Self {
        if options.quick {
            return Self {
                sizes: Sizes {
                    base: 4,
                    dependencies: 2,
                    program: 1,
                },
                starting: vec![10],
            };
        }
        let mut starting = vec![100, 500];
        if options.large {
            starting.push(3_000);
        }
        Self {
            sizes: Sizes {
                base: 50,
                dependencies: 16,
                program: 6,
            },
            starting,
        }
    }

    pub fn description(&self) -> String {
        let Sizes {
            base,
            dependencies,
            program,
        } = self.sizes;
        format!(
            "8 images on 2 shared bases, {} MB compressed: bases of {base} MB, and for each image dependencies of \
             {dependencies} MB and a program of {program} MB",
            2 * base + SERVICES.len() * (dependencies + program)
        )
    }

    pub fn repositories(&self) -> impl Iterator<Item = String> {
        let services = SERVICES.iter().map(|(name, _)| service(name));
        services.chain(self.starting.iter().copied().map(starting))
    }

    /// Returns the images for snapshots, by reference.
    pub fn for_builds(world: &World) -> Vec<String> {
        let host = &world.cloud.ready.registries.ecr.host;
        let services = SERVICES
            .iter()
            .map(|(name, _)| reference(host, &service(name)));
        services.collect()
    }

    /// Returns the same images in two lists: one of each base, and the others.
    pub fn by_base(world: &World) -> [Vec<String>; 2] {
        let mut bases = BTreeSet::new();
        let (first, others): (Vec<_>, Vec<_>) = SERVICES
            .into_iter()
            .zip(Self::for_builds(world))
            .partition(|((_, base), _)| bases.insert(*base));
        [first, others].map(|list| list.into_iter().map(|(_, image)| image).collect())
    }

    /// Returns the image that [`Self::push_change`] changes, by reference.
    pub fn changing(world: &World) -> String {
        let host = &world.cloud.ready.registries.ecr.host;
        reference(host, &service(SERVICES[CHANGING].0))
    }

    /// Returns the images for nodes, by reference, with their sizes.
    pub fn for_nodes(&self, world: &World) -> Vec<(String, Bytes)> {
        let host = &world.cloud.ready.registries.ecr.host;
        let sizes = self.starting.iter().copied();
        sizes
            .map(|megabytes| {
                let size = Bytes(megabytes as u64 * 1_000_000);
                (reference(host, &starting(megabytes)), size)
            })
            .collect()
    }

    pub async fn push(&self, world: &World) -> Result<()> {
        for base in ["debian", "python"] {
            let layers = [Layer::busybox()?, Layer::files(base, self.sizes.base)?];
            for (name, _) in SERVICES.iter().filter(|(_, of)| *of == base) {
                self.push_service(world, name, &layers, "first").await?;
            }
        }
        for megabytes in &self.starting {
            let name = starting(*megabytes);
            let mut layers = vec![Layer::busybox()?];
            // Large images have many layers, and a pull fetches several at once.
            let parts = megabytes.div_ceil(100).max(4);
            for part in 0..parts {
                layers.push(Layer::files(&format!("{name}-{part}"), megabytes / parts)?);
            }
            let image = Image::new(ARCHITECTURE, &layers, &name)?;
            world.ecr.push(&name, TAG, &image).await?;
        }
        Ok(())
    }

    /// Pushes one service again, with another program in its top layer.
    pub async fn push_change(&self, world: &World, run: u32) -> Result<()> {
        let (name, base) = SERVICES[CHANGING];
        let layers = [Layer::busybox()?, Layer::files(base, self.sizes.base)?];
        self.push_service(world, name, &layers, &format!("run {run}"))
            .await
    }

    async fn push_service(
        &self,
        world: &World,
        name: &str,
        base: &[Layer],
        version: &str,
    ) -> Result<()> {
        let own = [
            Layer::files(&format!("{name}-dependencies"), self.sizes.dependencies)?,
            Layer::files(&format!("{name}-{version}"), self.sizes.program)?,
        ];
        let layers = [base, &own].concat();
        let image = Image::new(ARCHITECTURE, &layers, name)?;
        world.ecr.push(&service(name), TAG, &image).await?;
        Ok(())
    }
}
