//! The table of quirks. To add one, add a row to [`all`].

use serde_json::json;

use crate::content::{
    Content, DOCKER_INDEX, DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST, entry, linux,
};
use crate::host::{Host, LogIn, PASSWORD, Received, Reply, USER};

/// Domain of all registries. RFC 2606 reserves `test`, so no real host answers.
pub const DOMAIN: &str = "quirks.test";

/// One quirk.
pub struct Quirk {
    /// Name of the registry's host below [`DOMAIN`], and of the test.
    pub name: &'static str,
    /// The quirk in words, for the table in the documentation.
    pub what: &'static str,
    /// The user name and the password of the cache, and of the pod's pull secret.
    pub credentials: Option<(&'static str, &'static str)>,
    /// The result of both sides.
    pub verdict: Verdict,
    /// URLs of the registry's mirrors, with `{mirror}` for the host of the second registry.
    mirrors: &'static [&'static str],
    build: fn(&mut Content),
    registry: fn(Host) -> Host,
    second: fn(Host) -> Host,
}

/// The result of plan-build and of containerd.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Both accept the image, with the same manifest.
    Pulled,
    /// Both refuse it. plan-build's error has this name, and its message contains this text.
    Refused(&'static str, &'static str),
}
use Verdict::{Pulled, Refused};

const NOT_FOUND: &str = "ImageNotFound";
const DENIED: &str = "RegistryDenied";
const UNAVAILABLE: &str = "RegistryUnavailable";

impl Quirk {
    /// Returns the host name of the registry.
    pub fn host(&self) -> String {
        format!("{}.{DOMAIN}", self.name)
    }

    /// Returns the content of the registry.
    pub fn content(&self) -> Content {
        let mut content = Content::new(self.name);
        (self.build)(&mut content);
        content
    }

    /// Returns the registry, and a second one with the same content: a mirror, or the destination of a redirect.
    pub fn hosts(&self) -> Vec<Host> {
        vec![
            (self.registry)(Host::new(self.host(), self.content())),
            (self.second)(Host::new(self.second_host(), self.content())),
        ]
    }

    /// Returns the URLs of the registry's mirrors.
    pub fn mirrors(&self) -> Vec<String> {
        let mirrors = self.mirrors.iter();
        mirrors
            .map(|mirror| mirror.replace("{mirror}", &self.second_host()))
            .collect()
    }

    fn second_host(&self) -> String {
        second_host(self.name)
    }

    fn content_is(
        name: &'static str,
        what: &'static str,
        verdict: Verdict,
        build: fn(&mut Content),
    ) -> Self {
        Self {
            name,
            what,
            credentials: None,
            verdict,
            mirrors: &[],
            build,
            registry: |host| host,
            second: |host| host,
        }
    }

    fn registry_is(
        name: &'static str,
        what: &'static str,
        verdict: Verdict,
        registry: fn(Host) -> Host,
    ) -> Self {
        Self {
            registry,
            ..Self::content_is(name, what, verdict, two_platforms)
        }
    }

    fn mirrors_are(
        name: &'static str,
        what: &'static str,
        verdict: Verdict,
        mirrors: &'static [&'static str],
        registry: fn(Host) -> Host,
        mirror: fn(Host) -> Host,
    ) -> Self {
        Self {
            mirrors,
            second: mirror,
            ..Self::registry_is(name, what, verdict, registry)
        }
    }

    fn with(self, credentials: (&'static str, &'static str)) -> Self {
        Self {
            credentials: Some(credentials),
            ..self
        }
    }
}

/// The usual content: an index of images for `amd64` and `arm64`.
fn two_platforms(content: &mut Content) {
    let amd64 = content.image(&Image::linux("amd64"));
    let arm64 = content.image(&Image::linux("arm64"));
    let index = content.index(&[linux(&amd64, "amd64"), linux(&arm64, "arm64")]);
    content.tag(&index);
}

/// Tags one image without an index.
fn only(content: &mut Content, image: &Image) {
    let image = content.image(image);
    content.tag(&image);
}

/// Tags an index with one entry of this platform.
fn index_of(content: &mut Content, platform: serde_json::Value) {
    let image = content.image(&Image::linux("amd64"));
    let index = content.index(&[entry(&image, platform)]);
    content.tag(&index);
}

fn first(asked: usize, reply: Reply) -> Option<Reply> {
    (asked == 0).then_some(reply)
}

fn for_manifests(request: &Received, reply: Reply) -> Option<Reply> {
    request.is_manifest().then_some(reply)
}

/// Returns every quirk.
#[expect(clippy::too_many_lines, reason = "it is a table")]
pub fn all() -> Vec<Quirk> {
    let right = (USER, PASSWORD);
    let wrong = (USER, "wrong");
    vec![
        // Content
        Quirk::content_is("image", "an image without an index", Pulled, |content| {
            only(content, &Image::linux("amd64"));
        }),
        Quirk::content_is("index", "an index of images", Pulled, two_platforms),
        Quirk::content_is("docker-list", "Docker's media types", Pulled, |content| {
            let amd64 = content.image(&Image::docker("amd64"));
            let list = content.index_of(DOCKER_INDEX, &[linux(&amd64, "amd64")]);
            content.tag(&list);
        }),
        Quirk::content_is(
            "attestations",
            "attestations beside the images",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let other = content.image(&Image::of(
                    json!({"os": "unknown", "architecture": "unknown"}),
                ));
                let unknown = json!({"os": "unknown", "architecture": "unknown"});
                let index = content.index(&[entry(&other, unknown), linux(&amd64, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "windows-first",
            "Windows before Linux in the index",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let windows =
                    json!({"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1"});
                let index = content.index(&[entry(&amd64, windows), linux(&amd64, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "nested-index",
            "an index as the entry of a platform",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let inner = content.index(&[linux(&amd64, "amd64")]);
                let index = content.index(&[linux(&inner, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "nested-index-without-platform",
            "an index as an entry without a platform",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let inner = content.index(&[linux(&amd64, "amd64")]);
                let index = content.index(&[inner]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "nested-twice",
            "an index in an index in an index",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::docker("amd64"));
                let inner = content.index_of(DOCKER_INDEX, &[linux(&amd64, "amd64")]);
                let middle = content.index(&[linux(&inner, "amd64")]);
                let index = content.index(&[linux(&middle, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "nested-index-of-other-platform",
            "the index of a platform contains only another one",
            Refused(
                NOT_FOUND,
                "no manifest for linux/amd64, only for linux/arm64",
            ),
            |content| {
                let arm64 = content.image(&Image::linux("arm64"));
                let inner = content.index(&[linux(&arm64, "arm64")]);
                let index = content.index(&[linux(&inner, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "entry-without-platform",
            "one entry without a platform",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let index = content.index(&[amd64]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "entries-without-platform",
            "entries without platforms, the node's first",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let arm64 = content.image(&Image::linux("arm64"));
                let index = content.index(&[amd64, arm64]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "entries-without-platform-other-first",
            "entries without platforms, the node's second",
            Refused(NOT_FOUND, "first entry without a platform"),
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let arm64 = content.image(&Image::linux("arm64"));
                let index = content.index(&[arm64, amd64]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "entry-without-platform-first",
            "an entry without a platform before the node's",
            Pulled,
            |content| {
                let none = content.image(&Image::linux("amd64"));
                let amd64 = content.image(&Image::linux("amd64"));
                let index = content.index(&[none, linux(&amd64, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "x86-64",
            "the architecture `x86_64` in the index",
            Pulled,
            |content| {
                index_of(content, json!({"os": "linux", "architecture": "x86_64"}));
            },
        ),
        Quirk::content_is(
            "upper-case-platform",
            "`Linux` and `AMD64` in the index",
            Pulled,
            |content| {
                index_of(content, json!({"os": "Linux", "architecture": "AMD64"}));
            },
        ),
        Quirk::content_is(
            "platform-without-os",
            "a platform without `os`",
            Pulled,
            |content| {
                index_of(content, json!({"architecture": "amd64"}));
            },
        ),
        Quirk::content_is(
            "empty-os",
            "a platform with an empty `os`",
            Pulled,
            |content| {
                index_of(content, json!({"os": "", "architecture": "amd64"}));
            },
        ),
        Quirk::content_is("amd64-v1", "`amd64/v1` in the index", Pulled, |content| {
            index_of(
                content,
                json!({"os": "linux", "architecture": "amd64", "variant": "v1"}),
            );
        }),
        Quirk::content_is(
            "amd64-v2",
            "only `amd64/v2` in the index",
            Refused(NOT_FOUND, "only for linux/amd64/v2"),
            |content| {
                index_of(
                    content,
                    json!({"os": "linux", "architecture": "amd64", "variant": "v2"}),
                );
            },
        ),
        Quirk::content_is(
            "amd64-v8",
            "only `amd64/v8` in the index",
            Refused(NOT_FOUND, "only for linux/amd64/v8"),
            |content| {
                index_of(
                    content,
                    json!({"os": "linux", "architecture": "amd64", "variant": "v8"}),
                );
            },
        ),
        Quirk::content_is("i386", "only `386` in the index", Pulled, |content| {
            index_of(content, json!({"os": "linux", "architecture": "386"}));
        }),
        Quirk::content_is(
            "i386-first",
            "`386` before `amd64` in the index",
            Pulled,
            |content| {
                let old = content.image(&Image::linux("386"));
                let amd64 = content.image(&Image::linux("amd64"));
                let index = content.index(&[linux(&old, "386"), linux(&amd64, "amd64")]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "other-platform",
            "an index without the node's platform",
            Refused(
                NOT_FOUND,
                "remove `x86_64` from the cache's `architectures`",
            ),
            |content| {
                index_of(
                    content,
                    json!({"os": "linux", "architecture": "arm64", "variant": "v8"}),
                );
            },
        ),
        Quirk::content_is(
            "empty-index",
            "an index without entries",
            Refused(NOT_FOUND, "no platform at all"),
            |content| {
                let index = content.index(&[]);
                content.tag(&index);
            },
        ),
        Quirk::content_is(
            "image-of-other-platform",
            "an image for `arm64` without an index",
            Pulled,
            |content| {
                only(content, &Image::linux("arm64"));
            },
        ),
        Quirk::content_is(
            "image-without-platform",
            "a configuration without a platform",
            Pulled,
            |content| {
                only(content, &Image::of(json!({})));
            },
        ),
        Quirk::content_is(
            "image-amd64-v8",
            "a configuration with `amd64/v8`",
            Pulled,
            |content| {
                let platform = json!({"os": "linux", "architecture": "amd64", "variant": "v8"});
                only(content, &Image::of(platform));
            },
        ),
        Quirk::content_is(
            "deleted-child",
            "the node's manifest is deleted, its index is not",
            Refused(NOT_FOUND, "its index exists, but the manifest"),
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let index = content.index(&[linux(&amd64, "amd64")]);
                content.tag(&index);
                content.remove(&amd64);
            },
        ),
        Quirk::content_is(
            "deleted-sibling",
            "the manifest of another platform is deleted",
            Pulled,
            |content| {
                let amd64 = content.image(&Image::linux("amd64"));
                let arm64 = content.image(&Image::linux("arm64"));
                let index = content.index(&[linux(&amd64, "amd64"), linux(&arm64, "arm64")]);
                content.tag(&index);
                content.remove(&arm64);
            },
        ),
        Quirk::content_is(
            "no-tag",
            "the tag does not exist",
            Refused(NOT_FOUND, "Check the repository and the tag"),
            |_| {},
        ),
        Quirk::content_is("many-layers", "127 layers", Pulled, |content| {
            only(
                content,
                &Image {
                    layers: 127,
                    ..Image::linux("amd64")
                },
            );
        }),
        Quirk::content_is("no-layers", "an image without layers", Pulled, |content| {
            only(
                content,
                &Image {
                    layers: 0,
                    ..Image::linux("amd64")
                },
            );
        }),
        Quirk::content_is(
            "uncompressed",
            "a layer without compression",
            Pulled,
            |content| {
                let layer_type = "application/vnd.oci.image.layer.v1.tar";
                only(
                    content,
                    &Image {
                        layer_type,
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "undeclared-type",
            "a manifest without `mediaType`",
            Pulled,
            |content| {
                only(
                    content,
                    &Image {
                        declares_type: false,
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "schema-1",
            "Docker schema 1",
            Refused(NOT_FOUND, "Docker schema 1"),
            |content| {
                let manifest = json!({"schemaVersion": 1, "name": "team/app", "tag": "1", "fsLayers": [], "history": []});
                let manifest = content.add(
                    "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    &manifest,
                );
                content.tag(&manifest);
            },
        ),
        Quirk::content_is(
            "helm-chart",
            "a Helm chart",
            Refused(NOT_FOUND, "is not a container image"),
            |content| {
                only(
                    content,
                    &Image {
                        config_type: "application/vnd.cncf.helm.config.v1+json",
                        layer_type: "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "cosign-signature",
            "a signature of cosign",
            Refused(NOT_FOUND, "containerd can unpack"),
            |content| {
                only(
                    content,
                    &Image {
                        layer_type: "application/vnd.dev.cosign.simplesigning.v1+json",
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "artifact",
            "an artifact with an empty configuration",
            Refused(NOT_FOUND, "is not a container image"),
            |content| {
                only(
                    content,
                    &Image {
                        config_type: "application/vnd.oci.empty.v1+json",
                        diff_ids: Some(0),
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "missing-diff-id",
            "fewer layers in the configuration than in the manifest",
            Refused(NOT_FOUND, "describes 1 layers, but its manifest has 2"),
            |content| {
                only(
                    content,
                    &Image {
                        layers: 2,
                        diff_ids: Some(1),
                        ..Image::linux("amd64")
                    },
                );
            },
        ),
        Quirk::content_is(
            "manifest-typed-as-index",
            "a manifest with the media type of an index",
            Refused(NOT_FOUND, "differs from its type"),
            |content| {
                let image = Image {
                    declares_type: false,
                    ..Image::linux("amd64")
                };
                let image = content.image(&image);
                let (_, body) = content
                    .manifest(crate::content::digest(&image))
                    .unwrap_or_default();
                let wrong = content.add_bytes(OCI_INDEX, body);
                content.tag(&wrong);
            },
        ),
        Quirk::content_is(
            "index-typed-as-manifest",
            "an index with the media type of a manifest",
            Refused(NOT_FOUND, "differs from its type"),
            |content| {
                let image = content.image(&Image::linux("amd64"));
                let index = json!({"schemaVersion": 2, "manifests": [linux(&image, "amd64")]});
                let wrong = content.add(DOCKER_MANIFEST, &index);
                content.tag(&wrong);
            },
        ),
        Quirk::content_is(
            "malformed-manifest",
            "a manifest that is not JSON",
            Refused(NOT_FOUND, "its manifest is malformed"),
            |content| {
                let wrong = content.add_bytes(OCI_MANIFEST, b"{".to_vec());
                content.tag(&wrong);
            },
        ),
        Quirk::content_is(
            "large-manifest",
            "a manifest of 5 MB",
            Refused(NOT_FOUND, "more than 4393216 bytes"),
            |content| {
                let manifest =
                    json!({"schemaVersion": 2, "annotations": {"text": "a".repeat(5_000_000)}});
                let manifest = content.add(OCI_MANIFEST, &manifest);
                content.tag(&manifest);
            },
        ),
        // Responses
        Quirk::registry_is(
            "web-page",
            "a web page with status 200",
            Refused(NOT_FOUND, "a web page instead of a manifest"),
            |host| host.rule(|request, _| for_manifests(request, Reply::page(200))),
        ),
        Quirk::registry_is(
            "no-type",
            "a manifest without `Content-Type`",
            Refused(NOT_FOUND, "gives its manifest no type"),
            |host| host.edit(|_, reply| reply.with("content-type", None)),
        ),
        Quirk::registry_is(
            "json-type",
            "a manifest with the type `application/json`",
            Refused(
                NOT_FOUND,
                "`application/json`, which containerd does not pull",
            ),
            |host| host.edit(|_, reply| reply.with("content-type", Some("application/json"))),
        ),
        Quirk::registry_is(
            "type-with-charset",
            "a media type with a parameter",
            Pulled,
            |host| {
                host.edit(|request, reply| {
                    if !request.is_manifest() || reply.status != 200 {
                        return reply;
                    }
                    let known = reply
                        .headers
                        .iter()
                        .find(|(name, _)| *name == "content-type");
                    let typed = known.map(|(_, value)| format!("{value}; charset=utf-8"));
                    reply.with("content-type", typed.as_deref())
                })
            },
        ),
        Quirk::registry_is("no-digest", "no `Docker-Content-Digest`", Pulled, |host| {
            host.edit(|_, reply| reply.with("docker-content-digest", None))
        }),
        Quirk::registry_is(
            "wrong-digest",
            "another digest in `Docker-Content-Digest`",
            Refused(NOT_FOUND, "no such content"),
            |host| {
                host.edit(|_, reply| {
                    let other = crate::content::digest_of(b"another manifest");
                    reply.with("docker-content-digest", Some(&other))
                })
            },
        ),
        Quirk::registry_is(
            "malformed-digest",
            "a malformed `Docker-Content-Digest`",
            Refused(NOT_FOUND, "returned a wrong digest"),
            sends_malformed_digest,
        ),
        Quirk::registry_is(
            "other-content",
            "other content than the digest",
            Refused(NOT_FOUND, "returned other content"),
            returns_other_content,
        ),
        Quirk::registry_is(
            "no-length",
            "no `Content-Length` for HEAD",
            Pulled,
            |host| {
                host.edit(|request, reply| match request.method.as_str() {
                    "HEAD" => reply.with("content-length", None),
                    _ => reply,
                })
            },
        ),
        Quirk::registry_is("head-405", "HEAD is not allowed", Pulled, |host| {
            host.rule(|request, _| {
                (request.method == "HEAD").then(|| Reply::error(405, "UNSUPPORTED", "no HEAD"))
            })
        }),
        Quirk::registry_is(
            "head-404",
            "HEAD does not find what GET finds",
            Refused(NOT_FOUND, "refuses HEAD requests"),
            |host| {
                host.rule(|request, _| {
                    (request.method == "HEAD")
                        .then(|| Reply::error(404, "MANIFEST_UNKNOWN", "none"))
                })
            },
        ),
        Quirk::registry_is(
            "head-403",
            "HEAD is forbidden, GET is not",
            Refused(DENIED, "refuses HEAD requests"),
            |host| {
                host.rule(|request, _| {
                    (request.method == "HEAD").then(|| Reply::error(403, "DENIED", "no HEAD"))
                })
            },
        ),
        Quirk::registry_is(
            "redirect",
            "manifests redirect to another host",
            Pulled,
            |host| {
                host.rule(|request, _| request.is_manifest().then(|| redirect("redirect", request)))
            },
        ),
        Quirk::registry_is(
            "blob-redirect",
            "blobs redirect to another host",
            Pulled,
            |host| {
                host.rule(|request, _| {
                    request
                        .path
                        .contains("/blobs/")
                        .then(|| redirect("blob-redirect", request))
                })
            },
        ),
        Quirk::registry_is("rate-limit-once", "one 429", Pulled, |host| {
            host.rule(|_, asked| first(asked, Reply::error(429, "TOOMANYREQUESTS", "slow down")))
        }),
        Quirk::registry_is(
            "rate-limit",
            "429 always",
            Refused(UNAVAILABLE, "pull-through cache in ECR"),
            |host| host.rule(|_, _| Some(Reply::error(429, "TOOMANYREQUESTS", "slow down"))),
        ),
        Quirk::registry_is(
            "rate-limit-with-own-code",
            "429 with another code",
            Refused(UNAVAILABLE, "It limits requests"),
            |host| host.rule(|_, _| Some(Reply::error(429, "DENIED", "quota exceeded"))),
        ),
        Quirk::registry_is("error-once", "one 500", Pulled, |host| {
            host.rule(|_, asked| first(asked, Reply::error(500, "UNKNOWN", "please retry")))
        }),
        Quirk::registry_is(
            "unavailable",
            "503 always",
            Refused(UNAVAILABLE, "503 Service Unavailable"),
            |host| host.rule(|_, _| Some(Reply::page(503))),
        ),
        Quirk::registry_is(
            "forbidden-with-own-code",
            "403 with the code `FORBIDDEN`",
            Refused(DENIED, "FORBIDDEN: no access to the project"),
            |host| {
                host.rule(|request, _| {
                    let reply = Reply::error(403, "FORBIDDEN", "no access to the project");
                    for_manifests(request, reply)
                })
            },
        ),
        Quirk::registry_is(
            "forbidden-without-code",
            "403 with an empty body",
            Refused(DENIED, "403 Forbidden"),
            |host| host.rule(|request, _| for_manifests(request, Reply::json(403, ""))),
        ),
        Quirk::registry_is(
            "forbidden-web-page",
            "403 with a web page",
            Refused(DENIED, "a web page, as a proxy"),
            |host| host.rule(|request, _| for_manifests(request, Reply::page(403))),
        ),
        Quirk::registry_is(
            "forbidden-despite-credentials",
            "403 without a challenge, although the cache has credentials",
            Refused(DENIED, "did not ask for the configured credentials"),
            |host| {
                host.rule(|request, _| {
                    for_manifests(request, Reply::error(403, "DENIED", "blocked"))
                })
            },
        )
        .with(right),
        Quirk::registry_is(
            "policy-violation",
            "412 of a project's policy",
            Refused(DENIED, "A policy of the registry forbids the pull"),
            |host| {
                host.rule(|request, _| {
                    let text = "image has critical vulnerabilities";
                    for_manifests(request, Reply::error(412, "PROJECTPOLICYVIOLATION", text))
                })
            },
        ),
        Quirk::registry_is(
            "not-found-with-denied-code",
            "404 with the code `DENIED`",
            Refused(NOT_FOUND, "DENIED: hidden"),
            |host| {
                host.rule(|request, _| {
                    for_manifests(request, Reply::error(404, "DENIED", "hidden"))
                })
            },
        ),
        // Log-in
        Quirk::registry_is(
            "open-registry",
            "credentials that nobody asks for",
            Pulled,
            |host| host,
        )
        .with(right),
        Quirk::registry_is(
            "basic",
            "Basic for the manifest, not for `/v2/`",
            Pulled,
            |host| host.log_in(LogIn::Basic),
        )
        .with(right),
        Quirk::registry_is(
            "basic-without-credentials",
            "Basic, and the cache has no credentials",
            Refused(DENIED, "add credentials for `basic-without-credentials"),
            |host| host.log_in(LogIn::Basic),
        ),
        Quirk::registry_is(
            "basic-wrong-password",
            "Basic, and the password is wrong",
            Refused(DENIED, "Check the password of `team`"),
            |host| host.log_in(LogIn::Basic),
        )
        .with(wrong),
        Quirk::registry_is(
            "bearer",
            "Bearer for the manifest, not for `/v2/`",
            Pulled,
            |host| host.log_in(LogIn::Token),
        )
        .with(right),
        Quirk::registry_is(
            "bearer-wrong-password",
            "Bearer, and the password is wrong",
            Refused(DENIED, "its token endpoint"),
            |host| host.log_in(LogIn::Token),
        )
        .with(wrong),
        Quirk::registry_is(
            "bearer-without-credentials",
            "Bearer, and the cache has no credentials",
            Refused(DENIED, "add credentials to `registry_credentials`"),
            |host| host.log_in(LogIn::Token),
        ),
        Quirk::registry_is(
            "anonymous-token",
            "Bearer, and everyone gets a token",
            Pulled,
            |host| host.log_in(LogIn::AnonymousToken),
        ),
        Quirk::registry_is(
            "two-challenges",
            "two challenges, Basic first",
            Pulled,
            |host| {
                host.log_in(LogIn::Token).challenges(&[
                    r#"Basic realm="quirks""#,
                    r#"Bearer realm="https://{host}/token",service="{host}""#,
                ])
            },
        )
        .with(right),
        Quirk::registry_is(
            "two-challenges-in-one-header",
            "two challenges in one header, Basic first",
            Refused(DENIED, "Check the password of `team`"),
            |host| {
                host.log_in(LogIn::Token).challenges(&[
                    r#"Basic realm="quirks", Bearer realm="https://{host}/token",service="{host}""#,
                ])
            },
        )
        .with(right),
        Quirk::registry_is(
            "lower-case-challenge",
            "the scheme in lower case",
            Pulled,
            |host| {
                host.log_in(LogIn::Token)
                    .challenges(&[r#"bearer realm="https://{host}/token",service="{host}""#])
            },
        )
        .with(right),
        Quirk::registry_is(
            "challenge-without-scope",
            "Bearer without a scope",
            Pulled,
            |host| {
                host.log_in(LogIn::AnonymousToken)
                    .challenges(&[r#"Bearer realm="https://{host}/token""#])
            },
        ),
        Quirk::registry_is(
            "challenge-without-realm",
            "Bearer without a realm",
            Refused(DENIED, "which is not a URL"),
            |host| {
                host.log_in(LogIn::Token)
                    .challenges(&[r#"Bearer service="{host}""#])
            },
        )
        .with(right),
        Quirk::registry_is(
            "unknown-challenge",
            "only the scheme `Negotiate`",
            Refused(DENIED, "401 Unauthorized"),
            |host| host.log_in(LogIn::Basic).challenges(&["Negotiate"]),
        )
        .with(right),
        Quirk::registry_is(
            "no-challenge",
            "401 without a challenge",
            Refused(DENIED, "did not ask for the configured credentials"),
            |host| host.log_in(LogIn::Basic).challenges(&[]),
        )
        .with(right),
        Quirk::registry_is(
            "token-by-get",
            "a token endpoint without POST",
            Pulled,
            |host| {
                host.log_in(LogIn::Token).rule(|request, _| {
                    let is_post = request.is_token() && request.method == "POST";
                    is_post.then(|| Reply::error(405, "UNSUPPORTED", "use GET"))
                })
            },
        )
        .with(right),
        Quirk::registry_is(
            "token-post-404",
            "a token endpoint that answers 404 to POST",
            Pulled,
            |host| {
                host.log_in(LogIn::Token).rule(|request, _| {
                    let is_post = request.is_token() && request.method == "POST";
                    is_post.then(|| Reply::error(404, "NOT_FOUND", "no such page"))
                })
            },
        )
        .with(right),
        Quirk::registry_is(
            "access-token",
            "a token under `access_token` only",
            Pulled,
            |host| {
                host.log_in(LogIn::AnonymousToken).edit(|request, reply| {
                    if request.is_token() {
                        Reply::json(
                            200,
                            json!({"access_token": "token-for-team-app", "expires_in": 300}),
                        )
                    } else {
                        reply
                    }
                })
            },
        ),
        Quirk::registry_is(
            "token-missing",
            "a token endpoint without a token in its answer",
            Refused(DENIED, "answered without a token"),
            |host| {
                host.log_in(LogIn::AnonymousToken)
                    .rule(|request, _| request.is_token().then(|| Reply::json(200, "{}")))
            },
        ),
        Quirk::registry_is(
            "token-web-page",
            "a web page from the token endpoint",
            Refused(DENIED, "a web page, as a proxy"),
            |host| {
                host.log_in(LogIn::AnonymousToken)
                    .rule(|request, _| request.is_token().then(|| Reply::page(200)))
            },
        ),
        Quirk::registry_is(
            "token-503-once",
            "one 503 of the token endpoint",
            Pulled,
            |host| {
                host.log_in(LogIn::AnonymousToken).rule(|request, asked| {
                    (request.is_token() && asked == 0).then(|| Reply::page(503))
                })
            },
        ),
        Quirk::registry_is(
            "token-429-once",
            "one 429 of the token endpoint",
            Pulled,
            |host| {
                host.log_in(LogIn::Token).rule(|request, asked| {
                    let is_first = request.is_token() && asked == 0;
                    is_first.then(|| Reply::error(429, "TOOMANYREQUESTS", "slow down"))
                })
            },
        )
        .with(right),
        Quirk::registry_is(
            "token-503",
            "503 of the token endpoint always",
            Refused(UNAVAILABLE, "its token endpoint"),
            |host| {
                host.log_in(LogIn::AnonymousToken)
                    .rule(|request, _| request.is_token().then(|| Reply::page(503)))
            },
        ),
        Quirk::registry_is(
            "token-403",
            "403 of the token endpoint",
            Refused(DENIED, "403 Forbidden"),
            |host| {
                host.log_in(LogIn::AnonymousToken).rule(|request, _| {
                    request
                        .is_token()
                        .then(|| Reply::error(403, "DENIED", "blocked"))
                })
            },
        ),
        Quirk::registry_is(
            "expired-token",
            "a token that expires before its first use",
            Pulled,
            |host| {
                host.log_in(LogIn::AnonymousToken).rule(|request, asked| {
                    let has_token = request.is_manifest() && !request.authorization.is_empty();
                    (has_token && asked == 0).then(|| {
                        Reply::error(401, "UNAUTHORIZED", "token expired").with(
                            "www-authenticate",
                            Some(r#"Bearer realm="https://expired-token.quirks.test/token""#),
                        )
                    })
                })
            },
        ),
        // Mirrors
        Quirk::mirrors_are(
            "mirror",
            "nothing, but its mirror has the image",
            Pulled,
            &["https://{mirror}"],
            lacks_all,
            |mirror| mirror,
        ),
        Quirk::mirrors_are(
            "mirror-without-scheme",
            "nothing, but its mirror without a scheme has the image",
            Pulled,
            &["{mirror}"],
            lacks_all,
            |mirror| mirror,
        ),
        Quirk::mirrors_are(
            "mirror-with-path",
            "nothing, but its mirror with a path has the image",
            Pulled,
            &["https://{mirror}/v2/"],
            lacks_all,
            |mirror| mirror,
        ),
        Quirk::mirrors_are(
            "mirror-with-slash",
            "nothing, and its mirror ends with a slash, which replaces `/v2`",
            Refused(
                NOT_FOUND,
                "mirror-with-slash-mirror.quirks.test` answered 404",
            ),
            &["https://{mirror}/"],
            lacks_all,
            |mirror| mirror,
        ),
        Quirk::mirrors_are(
            "second-mirror",
            "nothing, and only its second mirror exists",
            Pulled,
            &["https://no-such-host.quirks.test", "https://{mirror}"],
            lacks_all,
            |mirror| mirror,
        ),
        Quirk::mirrors_are(
            "mirror-with-log-in",
            "nothing, and its mirror takes the registry's credentials",
            Pulled,
            &["https://{mirror}"],
            lacks_all,
            |mirror| mirror.log_in(LogIn::Token),
        )
        .with(right),
        Quirk::mirrors_are(
            "mirror-404",
            "the image, which its mirror lacks",
            Pulled,
            &["https://{mirror}"],
            |host| host,
            lacks_all,
        ),
        Quirk::mirrors_are(
            "mirror-403",
            "the image, which its mirror denies",
            Pulled,
            &["https://{mirror}"],
            |host| host,
            |mirror| mirror.rule(|_, _| Some(Reply::error(403, "DENIED", "no access"))),
        ),
        Quirk::mirrors_are(
            "mirror-503",
            "the image, and its mirror fails",
            Pulled,
            &["https://{mirror}"],
            |host| host,
            |mirror| mirror.rule(|_, _| Some(Reply::page(503))),
        ),
        Quirk::mirrors_are(
            "mirror-without-blobs",
            "only the blobs, and its mirror only the manifests",
            Pulled,
            &["https://{mirror}"],
            |host| {
                host.rule(|request, _| {
                    for_manifests(request, Reply::error(404, "MANIFEST_UNKNOWN", "none"))
                })
            },
            |mirror| {
                mirror.rule(|request, _| {
                    (!request.is_manifest()).then(|| Reply::error(404, "BLOB_UNKNOWN", "none"))
                })
            },
        ),
        Quirk::mirrors_are(
            "mirror-with-wrong-content",
            "the image, and its mirror returns other content",
            Refused(NOT_FOUND, "returned other content"),
            &["https://{mirror}"],
            |host| host,
            returns_other_content,
        ),
        Quirk::mirrors_are(
            "mirror-with-malformed-digest",
            "the image, and its mirror sends a malformed digest",
            Refused(NOT_FOUND, "a wrong digest"),
            &["https://{mirror}"],
            |host| host,
            sends_malformed_digest,
        ),
        Quirk::mirrors_are(
            "image-nowhere",
            "nothing, and its mirror neither",
            Refused(
                NOT_FOUND,
                "; also, `image-nowhere.quirks.test` answered 404",
            ),
            &["https://{mirror}"],
            lacks_all,
            lacks_all,
        ),
        Quirk::mirrors_are(
            "mirror-404-and-log-in",
            "a log-in without credentials, and its mirror lacks the image",
            Refused(
                DENIED,
                "; also, its token endpoint at `mirror-404-and-log-in.quirks.test`",
            ),
            &["https://{mirror}"],
            |host| host.log_in(LogIn::Token),
            lacks_all,
        ),
        // Combinations
        Quirk {
            registry: |host| {
                host.log_in(LogIn::Token).rule(|request, asked| {
                    (request.is_token() && asked < 2).then(|| Reply::page(503))
                })
            },
            credentials: Some(right),
            ..Quirk::content_is(
                "nested-index-with-slow-token",
                "a nested index of `x86_64` behind a token endpoint with two 503",
                Pulled,
                |content| {
                    let amd64 = content.image(&Image::docker("amd64"));
                    let inner = content.index_of(DOCKER_INDEX, &[linux(&amd64, "x86_64")]);
                    let index = content.index(&[inner]);
                    content.tag(&index);
                },
            )
        },
        Quirk {
            registry: |host| {
                host.log_in(LogIn::Basic)
                    .edit(|_, reply| reply.with("docker-content-digest", None))
            },
            credentials: Some(right),
            ..Quirk::content_is(
                "basic-without-digest",
                "Basic, no digest header, and an entry without a platform",
                Pulled,
                |content| {
                    let amd64 = content.image(&Image::linux("amd64"));
                    let index = content.index(&[amd64]);
                    content.tag(&index);
                },
            )
        },
    ]
}

fn redirect(name: &str, request: &Received) -> Reply {
    let location = format!("https://{}{}", second_host(name), request.path);
    Reply::json(307, "").with("location", Some(&location))
}

fn second_host(name: &str) -> String {
    format!("{name}-mirror.{DOMAIN}")
}

fn lacks_all(host: Host) -> Host {
    host.rule(|_, _| Some(Reply::error(404, "NAME_UNKNOWN", "no such repository")))
}

fn returns_other_content(host: Host) -> Host {
    host.edit(|request, mut reply| {
        if request.method == "GET" && request.is_manifest() {
            reply.body = b"{}".to_vec();
            return reply.with("content-length", Some("2"));
        }
        reply
    })
}

fn sends_malformed_digest(host: Host) -> Host {
    host.edit(|_, reply| reply.with("docker-content-digest", Some("sha256:12")))
}
