"""What the rules of the workflow do, a module for each.

A module has one function `run`, which takes the job as Snakemake describes it to a script, calls a
public function of the package, and writes the outputs. The scripts of the rules name it
(`flashmm.workflow.start`), so that a rule needs nothing but the installed package.
"""
