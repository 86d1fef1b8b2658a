//! Test of the command behind a proxy.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

#[test]
fn command_uses_the_proxy_of_the_environment() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = format!("http://{address}");
    let asked = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&connection).read_line(&mut request).unwrap();
        let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        connection.write_all(refusal).unwrap();
        request
    });
    let ended = Command::new(env!("CARGO_BIN_EXE_prepull"))
        .arg("status")
        .env_clear()
        .envs([
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            // This host does not exist, so a request without the proxy fails.
            ("AWS_ENDPOINT_URL", "http://aws.invalid"),
            ("HTTP_PROXY", &proxy),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    // Ends the wait if the command sent no request.
    drop(TcpStream::connect(address));
    assert!(
        asked.join().unwrap().contains("http://aws.invalid/"),
        "{said}"
    );
}
