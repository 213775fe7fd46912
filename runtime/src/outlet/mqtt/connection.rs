//! One connection to a broker. Every call ends within a limit of time, whatever the broker does.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::packet::{self, Answer, Connect, MAX_ANSWER_BYTES};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum MqttError {
    /// The network, or TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The broker doesn't answer in time.
    #[error("the broker doesn't answer")]
    Silent,
    /// It doesn't speak MQTT 3.1.1, or not to this client.
    #[error("the broker says what is no answer")]
    Foreign,
    /// It refuses the connection.
    #[error("the broker refuses: {0}")]
    Refused(&'static str),
}

impl MqttError {
    /// Whether the broker, or whoever stands between, ended the connection.
    pub(super) fn is_end(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let ends = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
        matches!(self, MqttError::Io(error) if ends.contains(&error.kind()))
    }
}

impl From<rustls::Error> for MqttError {
    fn from(error: rustls::Error) -> Self {
        MqttError::Io(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The meaning of CONNACK's return codes.
fn refusal(code: u8) -> &'static str {
    match code {
        1 => "the protocol's version",
        2 => "the client's name",
        3 => "it is unavailable",
        4 => "user or password",
        5 => "not authorized",
        _ => "a reason that the standard doesn't know",
    }
}

/// The broker, and how to reach it.
pub(super) struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The longest time for an answer.
    pub(super) timeout: Duration,
}

/// An open connection.
pub(super) struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    timeout: Duration,
    keep_alive: Duration,
    /// What has come and isn't a whole packet yet.
    came: Vec<u8>,
    sent_at: Instant,
    pinged_at: Option<Instant>,
    last_id: u16,
}

impl Connection {
    /// Connects, shakes hands and introduces itself.
    pub(super) fn open(broker: &Broker, connect: &Connect) -> Result<Self, MqttError> {
        let mut error = io::Error::new(io::ErrorKind::NotFound, "the broker's name has no address");
        for address in (broker.host.as_str(), broker.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, broker.timeout) {
                Ok(socket) => return Self::begin(socket, broker, connect),
                Err(other) => error = other,
            }
        }
        Err(error.into())
    }

    fn begin(socket: TcpStream, broker: &Broker, connect: &Connect) -> Result<Self, MqttError> {
        socket.set_nodelay(true)?;
        let tls = match &broker.tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(broker.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                Some(Box::new(ClientConnection::new(Arc::clone(config), name)?))
            }
        };
        let mut connection = Connection {
            socket,
            tls,
            timeout: broker.timeout,
            keep_alive: Duration::from_secs(u64::from(connect.keep_alive_s)),
            came: Vec::new(),
            sent_at: Instant::now(),
            pinged_at: None,
            last_id: 0,
        };
        let ends = Instant::now() + broker.timeout;
        while connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            connection.write_tls(ends)?;
            if connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                connection.read(ends)?;
            }
        }
        connection.send(&packet::connect(connect))?;
        match connection.wait(ends)? {
            Answer::Connected(0) => Ok(connection),
            Answer::Connected(code) => Err(MqttError::Refused(refusal(code))),
            _ => Err(MqttError::Foreign),
        }
    }

    /// Publishes, and waits until the broker has it.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        is_retained: bool,
    ) -> Result<(), MqttError> {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.send(&packet::publish(topic, payload, is_retained, self.last_id))?;
        let ends = Instant::now() + self.timeout;
        loop {
            match self.wait(ends)? {
                Answer::Taken(id) if id == self.last_id => return Ok(()),
                Answer::Alive if self.pinged_at.take().is_some() => {}
                _ => return Err(MqttError::Foreign),
            }
        }
    }

    /// Notes what has come meanwhile, and says that the client is alive when that is due.
    pub(super) fn serve(&mut self) -> Result<(), MqttError> {
        let soon = Instant::now() + Duration::from_millis(1);
        match self.wait(soon) {
            Ok(Answer::Alive) if self.pinged_at.take().is_some() => {}
            Ok(_) => return Err(MqttError::Foreign),
            Err(MqttError::Silent) => {}
            Err(error) => return Err(error),
        }
        match self.pinged_at {
            Some(at) if at.elapsed() >= self.timeout => Err(MqttError::Silent),
            None if self.sent_at.elapsed() >= self.keep_alive / 2 => {
                self.send(&packet::PING)?;
                self.pinged_at = Some(Instant::now());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends in good order, so that the broker doesn't speak the will.
    pub(super) fn close(mut self) -> Result<(), MqttError> {
        self.send(&packet::DISCONNECT)?;
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.write_tls(Instant::now() + self.timeout)
    }

    /// The next packet.
    fn wait(&mut self, ends: Instant) -> Result<Answer, MqttError> {
        loop {
            match packet::answer(&self.came) {
                Ok(Some((answer, n_bytes))) => {
                    self.came.drain(..n_bytes);
                    return Ok(answer);
                }
                Ok(None) => self.read(ends)?,
                Err(packet::Foreign) => return Err(MqttError::Foreign),
            }
        }
    }

    fn left(ends: Instant) -> Result<Duration, MqttError> {
        ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(MqttError::Silent)
    }

    /// Reads what comes next, once.
    fn read(&mut self, ends: Instant) -> Result<(), MqttError> {
        self.socket.set_read_timeout(Some(Self::left(ends)?))?;
        // A few answers at a time: what comes beyond them waits in the socket, or in TLS's own buffer of bounded size.
        let mut bytes = [0; 16 * MAX_ANSWER_BYTES];
        let n_bytes = match &mut self.tls {
            None => in_time(self.socket.read(&mut bytes))?,
            Some(tls) => {
                let mut n_bytes = plain(tls, &mut bytes)?;
                if n_bytes.is_none() {
                    if in_time(tls.read_tls(&mut self.socket))? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    tls.process_new_packets()?;
                    n_bytes = plain(tls, &mut bytes)?;
                    self.write_tls(ends)?;
                    if n_bytes.is_none() {
                        return Ok(());
                    }
                }
                n_bytes.unwrap_or(0)
            }
        };
        if n_bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.came.extend(&bytes[..n_bytes]);
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), MqttError> {
        let ends = Instant::now() + self.timeout;
        self.sent_at = Instant::now();
        let Some(tls) = &mut self.tls else {
            let mut left = bytes;
            while !left.is_empty() {
                self.socket.set_write_timeout(Some(Self::left(ends)?))?;
                match in_time(self.socket.write(left))? {
                    0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                    n => left = &left[n..],
                }
            }
            return Ok(());
        };
        // One packet at a time: the buffer holds no more than that.
        tls.set_buffer_limit(None);
        tls.writer().write_all(bytes)?;
        self.write_tls(ends)
    }

    /// Writes what TLS wants to write.
    fn write_tls(&mut self, ends: Instant) -> Result<(), MqttError> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            self.socket.set_write_timeout(Some(Self::left(ends)?))?;
            in_time(tls.write_tls(&mut self.socket))?;
        }
        Ok(())
    }
}

/// What TLS has decrypted: `None` for nothing yet.
fn plain(tls: &mut ClientConnection, into: &mut [u8]) -> io::Result<Option<usize>> {
    match tls.reader().read(into) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        read => read.map(Some),
    }
}

/// A call that ran into its limit of time is silence.
fn in_time<T>(done: io::Result<T>) -> Result<T, MqttError> {
    done.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => MqttError::Silent,
        _ => error.into(),
    })
}
