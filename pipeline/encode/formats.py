"""The one list of image formats: what is decoded, the names of files that hold it, and names that are not decoded."""

from PIL import Image

Image.init()  # registers the formats of this build of Pillow

_ACCEPTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
FORMATS = tuple(name for name in _ACCEPTED if name in Image.OPEN)
_FORMATS_BY_NAME = {*FORMATS, "MPO"}  # a JPEG with further pictures behind the first, opened as a JPEG
_NEVER_DECODED = {"pfm"}  # of a format that is decoded: floating-point numbers, which have no white

# Lower-case, without the dot.
IMAGE_EXTENSIONS = frozenset(
    extension.lstrip(".").lower()
    for extension, name in Image.registered_extensions().items()
    if name in _FORMATS_BY_NAME
).difference(_NEVER_DECODED)

# What people take for pictures and is not decoded here: other formats, cameras' raw files, microscopes', films.
_OTHERS = """
    heic heif heics heifs hif avci jxl jxr wdp hdp jls jng mng bpg flif qoi svg svgz eps psd psb xcf kra ora cdr
    ico cur icns tga icb vda vst pcx dcx dds sgi rgb rgba ras xbm xpm xwd wmf emf pcd pict pct iff lbm ilbm djvu
    exr hdr rgbe pfm fits fit fts dcm dicom nii mha mhd nrrd czi nd2 lif lsm oib oif vsi svs ndpi mrxs qptiff
    cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f erf kdc dcr mrw mef mos iiq 3fr fff rwl raw
    mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp m2ts ogv
"""
# Those that some build of Pillow lacks are pictures on every machine.
_OPTIONAL = ("avif", "avifs", "webp", "jp2", "j2k", "jpx")
PICTURE_EXTENSIONS = IMAGE_EXTENSIONS.union(_OTHERS.split(), _OPTIONAL, _NEVER_DECODED)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: its extension, in any case, is one of a decoded format."""
    return extension_of(name) in IMAGE_EXTENSIONS


def looks_like_image(name: str) -> bool:
    """Whether people take a file of this name for a picture, be it decoded here or not (HEIC, raw, SVG, a film)."""
    return extension_of(name) in PICTURE_EXTENSIONS


def extension_of(name: str) -> str:
    """What stands behind the last dot of a file's name, in lower case; "" without one."""
    return name.rpartition(".")[2].lower() if "." in name else ""
