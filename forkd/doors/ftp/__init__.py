"""The FTP door: requests of the FTP engine -> the core -> replies."""

from forkd.doors.ftp.door import FtpDoor
from forkd.doors.ftp.settings import FtpSettings

__all__ = ["FtpDoor", "FtpSettings"]
