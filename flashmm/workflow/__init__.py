"""What the workflow has to do, from its config.

Sheets and configs are checked here before any rule runs, and turned into a plan: data sets and
methods, models between subjects, the calibration study. The rules in `workflow/` ask the plan and
compute nothing themselves.
"""
