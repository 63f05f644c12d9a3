//! Transports that carry a stream's bytes.

use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_tungstenite::WebSocketStream;

/// What a WebSocket runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a WebSocket runs over, whatever it is.
pub type BoxIo = Box<dyn Io>;
