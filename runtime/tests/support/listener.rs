//! The part of a server that all of them share: connections, over plain TCP or TLS, a thread each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Bytes to and from a client.
pub(crate) trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// Takes connections until it is dropped.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Calls `serve` for each connection to `address`, with its socket, by which it can be closed.
    pub(crate) fn start(
        address: &str,
        tls: Option<Arc<ServerConfig>>,
        serve: impl Fn(Box<dyn Wire>, &TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (serve, tls, socket) = (Arc::clone(&serve), tls.clone(), socket.unwrap());
                std::thread::spawn(move || {
                    let held = socket.try_clone().unwrap();
                    let wire: Box<dyn Wire> = match tls {
                        None => Box::new(socket),
                        Some(config) => {
                            Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), socket))
                        }
                    };
                    serve(wire, &held);
                });
            }
        });
        Listener { address, stop, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
