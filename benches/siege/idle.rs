//! Sessions that have said EHLO and say no more.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::Plan;
use crate::harness::figures::{Table, cell, mebibytes};
use crate::harness::{Server, Setup, postern, postfix};

/// Open files of the process that are no connection: the runtime's, the spool's.
const OTHER_FILES: usize = 200;
/// Connections from one address: a port of it for each.
const OF_AN_ADDRESS: usize = 10_000;
/// Postfix has a process for each session: so many are room enough, and time enough.
const OF_POSTFIX: usize = 500;

/// Prints the table.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let limit = raise_limit()?;
    let most = limit.saturating_sub(OTHER_FILES);
    let sessions = plan.idle.unwrap_or(most).min(most);
    let title = format!("idle: sessions that have said EHLO and say no more; {limit} files may be open");
    let table = Table::begin(&title, &["", "sessions", "MiB", "KiB each"]);
    let more = format!(
        "[smtp]\nmax_buffers = \"1GiB\"\nmax_connections = {room}\nmax_connections_per_address = {room}\nmax_connections_per_network = {room}\n",
        // The last tenth is for trusted clients.
        room = sessions + sessions / 8 + 10
    );
    let ours = postern::start_with(&Setup::only_accepting()?, &more);
    row(&table, "Postern", ours, sessions);
    row(&table, "Postfix", postfix::start(&Setup::only_accepting()?), sessions.min(OF_POSTFIX));
    Ok(())
}

fn row(table: &Table, name: &str, server: Result<Box<dyn Server>, String>, sessions: usize) {
    match server.and_then(|mut server| {
        let grown = grown(server.as_ref(), sessions);
        server.stop();
        grown
    }) {
        Ok(octets) => {
            let each = octets as f64 / 1024.0 / sessions as f64;
            table.row(&[name.to_owned(), sessions.to_string(), mebibytes(octets), cell(each)]);
        }
        Err(problem) => println!("| {name} | {sessions} | not measured: {problem} |"),
    }
}

/// By how much the memory of a server grows with so many sessions.
fn grown(server: &dyn Server, sessions: usize) -> Result<u64, String> {
    let before = server.processes().memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let open = runtime.map_err(|e| e.to_string())?.block_on(open(server.address(), sessions))?;
    let after = server.processes().memory();
    // A server that has thrown them out has no memory of them.
    let gone = open.iter().filter(|stream| !is_open(stream)).count();
    if gone > 0 {
        return Err(format!("{gone} of {sessions} sessions were ended"));
    }
    Ok(after.saturating_sub(before))
}

fn is_open(stream: &TcpStream) -> bool {
    let nothing = stream.peek(&mut [0]);
    nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn open(server: SocketAddr, sessions: usize) -> Result<Vec<TcpStream>, String> {
    let mut open = Vec::with_capacity(sessions);
    for at in 0..sessions {
        let address = Ipv4Addr::new(127, 0, 0, 1 + (at / OF_AN_ADDRESS) as u8);
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(IpAddr::V4(address), 0))?;
            let mut stream = socket.connect(server).await?;
            let mut reply = [0; 1024];
            let greeting = stream.read(&mut reply).await?;
            stream.write_all(b"EHLO load.proseware.test\r\n").await?;
            let extensions = stream.read(&mut reply[greeting..]).await?;
            let said = String::from_utf8_lossy(&reply[..greeting + extensions]).into_owned();
            std::io::Result::Ok((stream, said))
        };
        let (stream, said) = connect.await.map_err(|e| format!("session {at}: {e}"))?;
        if !said.starts_with("220") || !said.contains("\n250") {
            return Err(format!("session {at} was told {said:?}"));
        }
        open.push(stream.into_std().map_err(|e| e.to_string())?);
    }
    Ok(open)
}

/// As many open files as may be, for this process and the servers that it starts.
fn raise_limit() -> Result<usize, String> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.or(limit.current).ok_or("there is no limit of open files")?;
    setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: limit.maximum })
        .map_err(|e| format!("raising the limit of open files: {e}"))?;
    usize::try_from(maximum).map_err(|e| e.to_string())
}
