rule report:
    input:
        files=PLAN.report_files(),
    output:
        provenance=f"{PLAN.report_folder}/provenance.json",
        html=report(
            f"{PLAN.report_folder}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"result": "the whole run on one page"},
        ),
        figures=report(
            directory(f"{PLAN.report_folder}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        files=PLAN.report_files(),
        runs=PLAN.report_runs(),
        tables=PLAN.tables(),
        scenarios=PLAN.scenarios,
        related=PLAN.related_results(),
        config=config,
        version=code("report"),
    script:
        "../scripts/report.py"
