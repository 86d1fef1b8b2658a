//! The endpoints of a registry: its mirrors, then the registry itself.

use prepull_domain::{BuilderSettings, ImageReference, MirrorEndpoint};

/// A server that may have the images of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Name for messages: the registry's host as in references, or the mirror's host.
    pub(crate) name: String,
    /// URL of the repositories.
    base: String,
    /// The registry that a mirror stands for. One mirror can serve several registries.
    namespace: Option<String>,
}

impl Endpoint {
    /// Returns the endpoints of an image in the order in which a builder tries them.
    ///
    /// Source: `registryHosts` in `sources/host-ctr/cmd/host-ctr/registry.go` of bottlerocket-core-kit.
    pub(crate) fn of(image: &ImageReference, settings: &BuilderSettings) -> Vec<Self> {
        let registry = image.registry();
        let mut endpoints: Vec<_> = settings
            .mirrors_of(registry)
            .iter()
            .map(|mirror| Self::mirror(mirror, registry))
            .collect();
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        endpoints.push(Self {
            name: registry.to_owned(),
            base: format!("https://{host}/v2"),
            namespace: None,
        });
        endpoints
    }

    /// A path in the URL of a mirror replaces `/v2`.
    fn mirror(mirror: &MirrorEndpoint, registry: &str) -> Self {
        let url = mirror.as_str();
        let (scheme, address) = url.split_once("://").unwrap_or(("https", url));
        let (host, path) = match address.split_once('/') {
            Some((host, path)) => (host, path.trim_matches('/')),
            None => (address, "v2"),
        };
        let base = format!("{scheme}://{host}/{path}");
        Self {
            name: host.to_owned(),
            base: base.trim_end_matches('/').to_owned(),
            namespace: Some(registry.to_owned()),
        }
    }

    /// Returns the URL of `path` in a repository.
    pub(crate) fn url(&self, repository: &str, path: &str) -> String {
        let Self {
            base, namespace, ..
        } = self;
        let url = format!("{base}/{repository}/{path}");
        match namespace {
            // Source: `addNamespace` in containerd's `core/remotes/docker/resolver.go`.
            Some(registry) => format!("{url}?ns={}", registry.replace(':', "%3A")),
            None => url,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn urls(image: &str, mirrors: &serde_json::Value) -> Vec<String> {
        let settings = serde_json::from_value(json!({"registry_mirrors": mirrors})).unwrap();
        let image: ImageReference = image.parse().unwrap();
        let endpoints = Endpoint::of(&image, &settings);
        let urls = endpoints
            .iter()
            .map(|endpoint| endpoint.url(image.repository(), "manifests/1"));
        urls.collect()
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let mirrors = json!({
            "docker.io": ["hub.example.com", "http://10.0.0.1:5000/v2/hub/"],
            "*": ["https://all.example.com/"],
        });
        assert_eq!(
            urls("docker.io/library/nginx:1", &mirrors),
            [
                "https://hub.example.com/v2/library/nginx/manifests/1?ns=docker.io",
                "http://10.0.0.1:5000/v2/hub/library/nginx/manifests/1?ns=docker.io",
                "https://registry-1.docker.io/v2/library/nginx/manifests/1",
            ]
        );
        assert_eq!(
            urls("registry.example.com:5443/team/app:1", &mirrors),
            [
                "https://all.example.com/team/app/manifests/1?ns=registry.example.com%3A5443",
                "https://registry.example.com:5443/v2/team/app/manifests/1",
            ]
        );
    }
}
