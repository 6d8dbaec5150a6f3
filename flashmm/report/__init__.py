"""Pages: blocks of a page, and the reports of a run, of subjects and of the calibration study."""
