//! Measures the start time, the memory and the size of each function.
//!
//! Each start is a new process against a Runtime API of the benchmark, as in a new execution environment of Lambda. It
//! measures the program alone, without the download of the zip and the start of the virtual machine. The file is in the page
//! cache, because one uncounted start comes first.
//!
//! Every function rejects the input before its first AWS call, so time and memory contain no TLS handshake.
//!
//! Source of the protocol: Lambda developer guide, "Using the Lambda runtime API for custom runtimes".

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use prepull_domain::Bytes;
use prepull_tests::Environment;
use prepull_tests::benchmark::{Section, Spread};
use serde::Serialize;
use tempfile::TempDir;

use crate::options::Options;

/// From the start of the process to its first answer.
const AIM_ANSWER: Duration = Duration::from_millis(15);

/// The peak of resident memory.
const AIM_MEMORY: Bytes = Bytes(30_000_000);

/// The zip.
const AIM_ZIP: Bytes = Bytes(4_000_000);

/// An input that every function rejects without an AWS call.
const MALFORMED: &str = "{}";

/// Timeout of a start. It allows for slow machines and unoptimized builds.
const TIME_OUT: Duration = Duration::from_secs(30);

/// Number of starts of each function.
const STARTS: usize = 20;

/// Returns the starts of all functions, as a part of the report.
///
/// # Errors
/// If a function does not start.
pub fn section(environment: &Environment, options: &Options) -> Result<Section> {
    let (profile, starts) = if options.quick {
        ("dev", 1)
    } else {
        ("release", STARTS)
    };
    let report = measure(environment, profile, starts)?;
    Ok(Section {
        name: "lambda",
        markdown: report.markdown(),
        data: serde_json::to_value(&report)?,
    })
}

/// The measurements.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The profile that the functions were built with.
    pub profile: &'static str,
    /// Number of starts of each function.
    pub starts: usize,
    /// The goals.
    pub aims: Aims,
    /// The functions, by name.
    pub functions: BTreeMap<String, Function>,
}

/// The goals for an optimized build.
#[derive(Debug, Serialize)]
pub struct Aims {
    /// From the start of the process to its first answer, in milliseconds.
    pub answer_ms: f64,
    /// The peak of resident memory.
    pub memory: Bytes,
    /// The zip.
    pub zip: Bytes,
}

/// One function.
#[derive(Debug, Serialize)]
pub struct Function {
    /// From the start of the process until it asks for an invocation, in milliseconds.
    pub init_ms: Spread,
    /// From the start of the process until it has answered the first invocation, in milliseconds.
    pub answer_ms: Spread,
    /// The peak of resident memory until then, in bytes.
    pub memory: Spread,
    /// The executable.
    pub executable: Bytes,
    /// The zip.
    pub zip: Bytes,
}

/// Measures every function.
///
/// The functions take turns, so that other load on the machine affects all of them.
fn measure(environment: &Environment, profile: &'static str, starts: usize) -> Result<Report> {
    let unpacked = TempDir::with_prefix("prepull-lambda-")?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&environment.functions).with_context(|| {
        format!(
            "looking for functions in {}",
            environment.functions.display()
        )
    })? {
        let place = entry?.path();
        let name = place.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let function = Packed::unpack(&place, &unpacked.path().join(&name), &environment.python)?;
        start(&function.executable).with_context(|| format!("starting {name}"))?;
        found.push((name, function, Vec::new()));
    }
    for _ in 0..starts {
        for (name, function, starts) in &mut found {
            let start = start(&function.executable);
            starts.push(start.with_context(|| format!("starting {name}"))?);
        }
    }
    let functions = found
        .into_iter()
        .map(|(name, function, starts)| Ok((name, Function::of(&function, &starts)?)))
        .collect::<Result<_>>()?;
    Ok(Report {
        profile,
        starts,
        aims: Aims {
            answer_ms: milliseconds(AIM_ANSWER),
            memory: AIM_MEMORY,
            zip: AIM_ZIP,
        },
        functions,
    })
}

impl Report {
    /// Returns the report as Markdown: one sentence about the conditions, and a table.
    pub fn markdown(&self) -> String {
        let Aims {
            answer_ms,
            memory,
            zip,
        } = &self.aims;
        let tenths = |value: f64| format!("{value:.1}");
        let megabytes = |value: f64| format!("{:.1} MB", value / 1e6);
        let mut text = format!(
            "Functions of profile `{}`, {} starts each: median (least–greatest). Aims, for an optimized build: first answer \
             {answer_ms} ms, peak memory {memory}, zip {zip}.\n\n\
             | function | init, ms | first answer, ms | peak memory | executable | zip |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            self.profile, self.starts
        );
        for (name, function) in &self.functions {
            let Function {
                init_ms,
                answer_ms,
                memory,
                executable,
                zip,
            } = function;
            writeln!(
                text,
                "| {name} | {} | {} | {} | {executable} | {zip} |",
                init_ms.show(tenths),
                answer_ms.show(tenths),
                memory.show(megabytes),
            )
            .expect("a string takes what is written to it");
        }
        text
    }
}

impl Function {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a function's memory is far from the limit of a float"
    )]
    fn of(packed: &Packed, starts: &[Start]) -> Result<Self> {
        let size = |path: &Path| -> Result<Bytes> { Ok(Bytes(fs::metadata(path)?.len())) };
        Ok(Self {
            init_ms: spread(starts, |start| milliseconds(start.init))?,
            answer_ms: spread(starts, |start| milliseconds(start.answer))?,
            memory: spread(starts, |start| start.memory.0 as f64)?,
            executable: size(&packed.executable)?,
            zip: size(&packed.zip)?,
        })
    }
}

fn spread(starts: &[Start], of: impl Fn(&Start) -> f64) -> Result<Spread> {
    Spread::of(starts.iter().map(of)).context("every function was started")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A function's files.
#[derive(Debug)]
struct Packed {
    executable: PathBuf,
    zip: PathBuf,
}

impl Packed {
    /// Extracts the zip in `place` into `directory`.
    fn unpack(place: &Path, directory: &Path, python: &Path) -> Result<Self> {
        let zip = place.join("bootstrap.zip");
        let done = Command::new(python)
            .args(["-m", "zipfile", "--extract"])
            .args([&zip, directory])
            .status()?;
        ensure!(
            done.success(),
            "unpacking {} ended with {done}",
            zip.display()
        );
        let executable = directory.join("bootstrap");
        // Python's module drops the mode of the file in the zip.
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755))?;
        Ok(Self { executable, zip })
    }
}

/// One start.
#[derive(Debug, Clone, Copy)]
struct Start {
    init: Duration,
    answer: Duration,
    memory: Bytes,
}

/// Starts the function, lets it answer once, and ends it.
fn start(executable: &Path) -> Result<Start> {
    let (api, events) = RuntimeApi::serve()?;
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(executable);
    command
        .env_clear()
        .envs(environment(&api.address.to_string()))
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?);
    let began = Instant::now();
    let mut process = Ended(command.spawn()?);
    follow(&events, began, &mut process.0).with_context(|| {
        let said = fs::read_to_string(log.path()).unwrap_or_default();
        format!("the function said: {}", said.trim())
    })
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(events: &Receiver<Event>, began: Instant, process: &mut Child) -> Result<Start> {
    let init = match next(events, process).context("before it asked for an invocation")? {
        Event::Asked(at) => at - began,
        other => bail!("before it asked for an invocation: {other}"),
    };
    let answer = match next(events, process).context("before it answered")? {
        Event::Answered(at) => at - began,
        other => bail!("instead of an answer: {other}"),
    };
    Ok(Start {
        init,
        answer,
        memory: peak_memory(process.id())?,
    })
}

/// Returns the next event, unless the function ends or the timeout passes.
fn next(events: &Receiver<Event>, process: &mut Child) -> Result<Event> {
    let until = Instant::now() + TIME_OUT;
    loop {
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => return Ok(event),
            Err(error) => {
                if let Some(status) = process.try_wait()? {
                    bail!("it ended with {status}");
                }
                if Instant::now() >= until {
                    bail!("nothing came for {TIME_OUT:?}: {error}");
                }
            }
        }
    }
}

/// Returns the peak resident memory of a process, as Linux reports it.
fn peak_memory(process: u32) -> Result<Bytes> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .context("the process' status has no line VmHWM")?
        .trim()
        .parse()?;
    Ok(Bytes(kibibytes * 1024))
}

/// Environment that Lambda and the Terraform module set for every function.
fn environment(runtime_api: &str) -> BTreeMap<&'static str, &str> {
    BTreeMap::from([
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", "prepull-benchmark"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/prepull-benchmark"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "benchmark"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "benchmark"),
        ("AWS_SECRET_ACCESS_KEY", "benchmark"),
        ("AWS_SESSION_TOKEN", "benchmark"),
        ("RUST_LOG", "info"),
        ("PREPULL_NAME", "prepull"),
        ("PREPULL_DEBOUNCE_SECONDS", "60"),
        (
            "PREPULL_INSTANCE_PROFILE_ARN",
            "arn:aws:iam::123456789012:instance-profile/prepull-builder",
        ),
        (
            "PREPULL_STATE_MACHINE_ARN",
            "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build",
        ),
    ])
}

/// An action of the function, with its time.
enum Event {
    /// It asked for an invocation for the first time.
    Asked(Instant),
    /// It answered the invocation, with a result or an error.
    Answered(Instant),
    /// It made another request.
    Other(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(_) => f.write_str("it asked for an invocation"),
            Self::Answered(_) => f.write_str("it answered"),
            Self::Other(request) => f.write_str(request),
        }
    }
}

/// The Runtime API of one function. It hands out one invocation and accepts the answer. It never hands out a second one, so
/// the function waits until it is ended.
struct RuntimeApi {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl RuntimeApi {
    fn serve() -> Result<(Self, Receiver<Event>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let api = Self {
            address: listener.local_addr()?,
            stop: Arc::default(),
        };
        let (seen, events) = channel();
        let stop = api.stop.clone();
        thread::spawn(move || {
            let asked = Arc::new(AtomicBool::new(false));
            for connection in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (asked, seen) = (asked.clone(), seen.clone());
                // The thread ends when the function closes the connection. The receiver is gone by then.
                thread::spawn(move || converse(connection, &asked, &seen));
            }
        });
        Ok((api, events))
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection. On failure, the thread has already ended.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers the requests of one connection until the function closes it or requests a second invocation.
fn converse(connection: TcpStream, asked: &AtomicBool, seen: &Sender<Event>) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut answers = connection.try_clone()?;
    let mut requests = BufReader::new(connection);
    while let Some(request) = read_request(&mut requests)? {
        let at = Instant::now();
        let path = request.strip_suffix(" HTTP/1.1").unwrap_or(&request);
        if path == "GET /2018-06-01/runtime/invocation/next" {
            if asked.swap(true, Ordering::Relaxed) {
                // Only the end of the connection can follow.
                requests.read_to_end(&mut Vec::new())?;
                return Ok(());
            }
            seen.send(Event::Asked(at))?;
            answers.write_all(invocation().as_bytes())?;
        } else {
            answers.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
            let answered = path.starts_with("POST /2018-06-01/runtime/invocation/");
            seen.send(if answered {
                Event::Answered(at)
            } else {
                Event::Other(request)
            })?;
        }
    }
    Ok(())
}

/// Reads one request and returns its first line, or `None` at the end of the connection.
fn read_request(requests: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    if requests.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let request = line.trim_end().to_owned();
    let mut length = 0;
    let mut chunked = false;
    loop {
        let mut header = String::new();
        requests.read_line(&mut header)?;
        let header = header.trim_end().to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse()?,
            Some(("transfer-encoding", _)) => chunked = true,
            Some(_) => {}
        }
    }
    if !chunked {
        requests.read_exact(&mut vec![0; length])?;
        return Ok(Some(request));
    }
    loop {
        let mut size = String::new();
        requests.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        // Includes the line ending.
        requests.read_exact(&mut vec![0; size + 2])?;
        if size == 0 {
            return Ok(Some(request));
        }
    }
}

fn invocation() -> String {
    let deadline = SystemTime::now() + Duration::from_secs(60);
    let since_epoch = deadline
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "HTTP/1.1 200 OK\r\n\
         content-type: application/json\r\n\
         lambda-runtime-aws-request-id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n\
         lambda-runtime-deadline-ms: {}\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:eu-west-1:123456789012:function:prepull-benchmark\r\n\
         lambda-runtime-trace-id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700\r\n\
         content-length: {}\r\n\r\n{MALFORMED}",
        since_epoch.as_millis(),
        MALFORMED.len()
    )
}
