"""An experiment in a folder: trained, continued, opened, evaluated, exported."""
