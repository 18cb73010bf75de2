//! Many TCP connections: a server that returns what it gets, and clients that come and go, or that stay.
//!
//! ```sh
//! cargo bench --bench flows -- serve ADDRESS              # until it is ended
//! cargo bench --bench flows -- churn ADDRESS SECONDS MANY # connect, one byte there and back, close; MANY at a time
//! cargo bench --bench flows -- hold ADDRESS COUNT         # COUNT open at once, each asked twice; waits for a line between
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool that stops with a message when something is not there"
)]

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;

const USAGE: &str = "usage: flows serve ADDRESS | churn ADDRESS SECONDS MANY | hold ADDRESS COUNT";

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        match words[..] {
            ["serve", address] => serve(address.parse().unwrap()).await,
            ["churn", address, seconds, many] => {
                let time = Duration::from_secs(seconds.parse().unwrap());
                churn(address.parse().unwrap(), time, many.parse().unwrap()).await;
            }
            ["hold", address, count] => {
                hold(address.parse().unwrap(), count.parse().unwrap()).await;
            }
            _ => println!("{USAGE}"),
        }
    });
}

async fn serve(address: SocketAddr) {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener: TcpListener = socket.listen(65_535).unwrap();
    println!("READY {}", std::process::id());
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                while let Ok(Some(byte)) = receive(&stream).await {
                    if send(&stream, byte).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

async fn receive(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn send(stream: &TcpStream, byte: u8) -> io::Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(&[byte]) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn ask(stream: &TcpStream, byte: u8) -> io::Result<()> {
    send(stream, byte).await?;
    match receive(stream).await? {
        Some(answer) if answer == byte => Ok(()),
        Some(_) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn churn(address: SocketAddr, time: Duration, many: usize) {
    let (done, failed) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(0u64)));
    let start = Instant::now();
    let tasks: Vec<_> = (0..many)
        .map(|_| {
            let (done, failed) = (Rc::clone(&done), Rc::clone(&failed));
            tokio::task::spawn_local(async move {
                while start.elapsed() < time {
                    let once = async {
                        let stream = TcpStream::connect(address).await?;
                        ask(&stream, b'x').await
                    };
                    match tokio::time::timeout(Duration::from_secs(10), once).await {
                        Ok(Ok(())) => done.set(done.get() + 1),
                        Ok(Err(_)) | Err(_) => failed.set(failed.get() + 1),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rate = done.get() as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} connections a second, {} failed", failed.get());
}

async fn hold(address: SocketAddr, count: usize) {
    let streams = Rc::new(std::cell::RefCell::new(Vec::new()));
    let begun = Rc::new(Cell::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (streams, begun) = (Rc::clone(&streams), Rc::clone(&begun));
            tokio::task::spawn_local(async move {
                while begun.get() < count {
                    begun.set(begun.get() + 1);
                    let stream = TcpStream::connect(address).await.unwrap();
                    ask(&stream, b'a').await.unwrap();
                    streams.borrow_mut().push(stream);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let streams = streams.take();
    println!("HOLDING {}", streams.len());
    let line = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
    line.await.unwrap().unwrap();
    for stream in &streams {
        ask(stream, b'b').await.unwrap();
    }
    println!("HELD {}", streams.len());
}
