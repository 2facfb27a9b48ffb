//! Where frames go: the other screen of a terminal, which is left as it was, or plain lines.

use std::io::{self, IsTerminal, Write};

use rustix::termios::tcgetwinsize;

use super::frame::Frame;

const OTHER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const BACK: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const TO_LINE_END: &str = "\x1b[K";
const TO_SCREEN_END: &str = "\x1b[J";

/// Standard output.
pub struct Terminal {
    screen: bool,
    drawn: bool,
}

impl Terminal {
    /// Takes the other screen, if this is a terminal.
    pub fn open() -> Self {
        Self { screen: io::stdout().is_terminal(), drawn: false }
    }

    /// Prints lines, whatever it is.
    pub fn plain() -> Self {
        Self { screen: false, drawn: false }
    }

    /// Draws over the last frame, or below it where there is no screen.
    pub fn draw(&mut self, frame: &Frame) -> io::Result<()> {
        let mut text = String::new();
        if self.screen {
            if !self.drawn {
                text.push_str(OTHER_SCREEN);
            }
            text.push_str(HOME);
            let (width, height) = size();
            for (row, line) in frame.lines().iter().take(height).enumerate() {
                if row > 0 {
                    text.push_str("\r\n");
                }
                text.extend(line.chars().take(width));
                text.push_str(TO_LINE_END);
            }
            text.push_str(TO_SCREEN_END);
        } else {
            if self.drawn {
                text.push('\n');
            }
            for line in frame.lines() {
                text.push_str(&line);
                text.push('\n');
            }
        }
        self.drawn = true;
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.screen && self.drawn {
            let mut output = io::stdout().lock();
            let _nobody_to_tell = output.write_all(BACK.as_bytes()).and_then(|()| output.flush());
        }
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
