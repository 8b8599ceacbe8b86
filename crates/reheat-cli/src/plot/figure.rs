//! A drawing becomes a file, SVG or PNG.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use flate2::{Compression, Crc, write::ZlibEncoder};
use plotters::{
    backend::{BitMapBackend, DrawingBackend},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    prelude::SVGBackend,
    style::{FontStyle, WHITE, register_font},
};

use super::lettering::Lettering;
use crate::fault::Fault;

/// Something that can be drawn.
pub(super) trait Drawing {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws on a white area of that size, with texts that may hold any character as `lettering` has them.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B>;
}

/// Whether it could be drawn.
pub(super) type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// The file that a plot goes to; its extension says the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    path: PathBuf,
    format: FileFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    Svg,
    Png,
}

impl std::str::FromStr for Figure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let format = match extension.as_deref() {
            Some("svg") => FileFormat::Svg,
            Some("png") => FileFormat::Png,
            _ => return Err("expected a file name that ends in .svg or .png".into()),
        };
        Ok(Self { path, format })
    }
}

impl Figure {
    /// An SVG file.
    pub(crate) fn svg(path: &Path) -> Self {
        Self { path: path.to_owned(), format: FileFormat::Svg }
    }

    /// A PNG file.
    pub(crate) fn png(path: &Path) -> Self {
        Self { path: path.to_owned(), format: FileFormat::Png }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Draws into the file. Directories are made where they are missing.
    pub(super) fn save(&self, drawing: &impl Drawing) -> anyhow::Result<()> {
        bring_font();
        let bytes = match self.format {
            FileFormat::Svg => svg(drawing)?,
            FileFormat::Png => png(drawing)?,
        };
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&self.path, bytes)
        };
        let cannot = |error| Fault::failed(format!("cannot write `{}`", self.path.display())).because(error);
        Ok(write().map_err(cannot)?)
    }
}

/// Makes the bundled DejaVu Sans the font of all text: a bare machine has none.
fn bring_font() {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let is_a_font = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular()).is_ok();
        debug_assert!(is_a_font, "the bundled font is tested");
    });
}

fn svg(drawing: &impl Drawing) -> anyhow::Result<Vec<u8>> {
    let mut text = String::new();
    draw_on(&SVGBackend::with_string(&mut text, drawing.size()).into_drawing_area(), drawing, Lettering::Viewer)?;
    Ok(text.into_bytes())
}

fn png(drawing: &impl Drawing) -> anyhow::Result<Vec<u8>> {
    let (width, height) = drawing.size();
    let mut pixels = vec![0; width as usize * height as usize * 3];
    draw_on(
        &BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area(),
        drawing,
        Lettering::Bundled,
    )?;
    Ok(encode_png(width, height, &pixels)?)
}

fn draw_on<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    drawing: &impl Drawing,
    lettering: Lettering,
) -> anyhow::Result<()> {
    // The backend's error can't leave the function: it may borrow.
    let plain = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow::anyhow!("cannot draw a plot: {error}");
    area.fill(&WHITE).map_err(plain)?;
    drawing.draw(area, lettering).map_err(plain)?;
    area.present().map_err(plain)
}

/// 8-bit RGB, one row after another (PNG specification, third edition, chapter 5).
fn encode_png(width: u32, height: u32, pixels: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // bits, RGB, deflate, adaptive filters, not interlaced
    let mut rows = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in pixels.chunks_exact(width as usize * 3) {
        rows.write_all(&[0])?; // unfiltered
        rows.write_all(row)?;
    }
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", rows.finish()?), (b"IEND", Vec::new())] {
        file.extend((data.len() as u32).to_be_bytes());
        let start = file.len();
        file.extend(kind);
        file.extend(data);
        let mut crc = Crc::new();
        crc.update(&file[start..]);
        file.extend(crc.sum().to_be_bytes());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_says_the_format() {
        assert_eq!("a/b.PNG".parse::<Figure>().unwrap().format, FileFormat::Png);
        assert_eq!("b.svg".parse::<Figure>().unwrap(), Figure::svg(Path::new("b.svg")));
        assert!("plot.pdf".parse::<Figure>().unwrap_err().contains(".png"));
    }

    #[test]
    fn a_png_of_one_red_pixel_is_what_the_specification_says() {
        let file = encode_png(1, 1, &[255, 0, 0]).unwrap();
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        // The checksums of IHDR for 1 x 1 RGB and of IEND are well known.
        assert_eq!(&file[8..33], b"\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90\x77\x53\xde");
        assert_eq!(&file[file.len() - 12..], b"\0\0\0\0IEND\xae\x42\x60\x82");
    }
}
