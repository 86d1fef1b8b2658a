//! The server as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// Ends the process also if a test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(options: &[&str]) -> (Process, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_prepull-kubernetes-standin"))
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo has built the binary");
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut url = String::new();
    BufReader::new(stdout)
        .read_line(&mut url)
        .expect("the server prints its URL");
    (Process(child), url.trim().to_owned())
}

fn request(url: &str, method: &str, path: &str, body: &Value) -> Value {
    let address = url.strip_prefix("http://").expect("the URL has no TLS");
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let body = body.to_string();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the server reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the server answers");
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .expect("the answer has a body");
    serde_json::from_str(body).expect("the body is JSON")
}

#[test]
fn process_serves_objects_and_its_requests() {
    let (_process, url) = start(&["--bad-snapshot", "snap-00000000"]);
    let classes = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses";
    let class = json!({"metadata": {"name": "web"}, "spec": {
        "role": "node",
        "amiSelectorTerms": [{"alias": "bottlerocket@v1.57.0"}],
        "subnetSelectorTerms": [{"tags": {"a": "b"}}],
        "securityGroupSelectorTerms": [{"tags": {"a": "b"}}],
        "blockDeviceMappings": [{"deviceName": "/dev/xvdb", "ebs": {"snapshotID": "snap-00000000"}}],
    }});
    request(&url, "POST", classes, &class);
    let stored = request(&url, "GET", &format!("{classes}/web"), &Value::Null);
    let ready = stored["status"]["conditions"]
        .as_array()
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| condition["type"] == "Ready")
        })
        .expect("Karpenter sets the condition");
    assert_eq!(ready["status"], "Unknown");
    let requests = request(&url, "GET", "/standin/requests", &Value::Null);
    let writes: Vec<_> = requests
        .as_array()
        .into_iter()
        .flatten()
        .map(|request| (request["verb"].clone(), request["write"].clone()))
        .collect();
    assert_eq!(
        writes,
        [(json!("create"), json!(true)), (json!("get"), json!(false))]
    );
}

#[test]
fn process_writes_a_kubeconfig_with_its_url() {
    let folder = std::env::temp_dir().join(format!("prepull-standin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let path = folder.join("kubeconfig");
    let (_process, url) = start(&["--kubeconfig", &path.to_string_lossy()]);
    let text = std::fs::read_to_string(&path).expect("the file exists before the URL is printed");
    let config: Value = serde_json::from_str(&text).expect("the kubeconfig is JSON");
    assert_eq!(config["clusters"][0]["cluster"]["server"], url);
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

#[test]
fn unknown_option_ends_the_process() {
    let output = Command::new(env!("CARGO_BIN_EXE_prepull-kubernetes-standin"))
        .args(["--port", "1"])
        .output()
        .expect("cargo has built the binary");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("`--port` is not an option"));
}
