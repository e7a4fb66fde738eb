//! Bodies that are in one form for the client and in another for the endpoint.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};

use crate::body::{Payload, Upload};

/// Makes one form of a body of another, piece by piece.
pub trait Translator {
    /// The next piece; an empty one where more is needed first.
    ///
    /// # Errors
    /// If it makes no sense; the request then breaks off.
    fn data(&mut self, piece: Bytes) -> io::Result<Bytes>;

    /// What comes last, in place of trailers or of nothing.
    ///
    /// # Errors
    /// If the body should not have ended here.
    fn end(&mut self, trailers: Option<HeaderMap>) -> io::Result<Option<Frame<Bytes>>>;
}

/// What is changed of a call on its way.
pub struct Translation {
    /// Of the request's body; `None` leaves it as it is.
    pub request: Option<Box<dyn Translator>>,
    /// Of the response's body.
    pub response: Box<dyn Translator>,
    /// The response's content type.
    pub content_type: HeaderValue,
}

/// A body that is translated as it passes.
pub(crate) struct Translated {
    inner: Payload,
    by: Box<dyn Translator>,
    /// Told if a request's body makes no sense.
    upload: Option<Rc<Upload>>,
    ended: bool,
}

impl Translated {
    pub(crate) fn wrap(
        inner: Payload,
        by: Box<dyn Translator>,
        upload: Option<Rc<Upload>>,
    ) -> Payload {
        Payload::Translated(Box::new(Self {
            inner,
            by,
            upload,
            ended: false,
        }))
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        while !self.ended {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(frame) => frame?,
                None => return Poll::Ready(self.end(None)),
            };
            match frame.into_data() {
                Ok(piece) => {
                    let piece = self.by.data(piece).inspect_err(|_| self.break_off())?;
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
                Err(frame) => return Poll::Ready(self.end(frame.into_trailers().ok())),
            }
        }
        Poll::Ready(None)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Option<io::Result<Frame<Bytes>>> {
        self.ended = true;
        let last = self.by.end(trailers).transpose();
        if let Some(Err(_)) = last {
            self.break_off();
        }
        last
    }

    fn break_off(&self) {
        if let Some(upload) = &self.upload {
            upload.breaks();
        }
    }
}
