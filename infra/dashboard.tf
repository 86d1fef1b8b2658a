# A dashboard for operators, with `dashboard`. Logs Insights reads the functions' own log lines, so the functions publish no
# metrics. Each query names the `message` that it counts. An end-to-end test finds every field in the log of a real build.

locals {
  # Dashboards of an account share their names across Regions.
  dashboard_name = "${var.name}-${local.region}"

  consoles = { aws-cn = "console.amazonaws.cn", aws-us-gov = "console.amazonaws-us-gov.com" }

  dashboard_metrics = [
    {
      title = "Builds by outcome"
      metrics = [
        for metric, label in { Succeeded = "succeeded", Failed = "failed", TimedOut = "timed out", Aborted = "aborted" } :
        ["AWS/States", "Executions${metric}", "StateMachineArn", local.state_machine_arn, { label = label }]
      ]
      stat   = "Sum"
      period = 86400
    },
    {
      title   = "Messages in the dead-letter queue"
      metrics = [["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", local.dead_letters_name, { label = "messages" }]]
      stat    = "Maximum"
      period  = 3600
    },
    {
      title   = "Calls that Lambda throttled"
      metrics = [for stage in keys(local.stages) : ["AWS/Lambda", "Throttles", "FunctionName", "${var.name}-${stage}", { label = stage }]]
      stat    = "Sum"
      period  = 3600
    },
  ]

  dashboard_queries = [
    {
      title = "Targets that needed a build"
      stage = "plan-build"
      view  = "timeSeries"
      query = "filter message in [\"target needs a build\", \"target is up to date\"] | stats sum(strcontains(message, \"needs a build\")) as built, sum(strcontains(message, \"up to date\")) as up_to_date by bin(1d)"
    },
    {
      title = "Age of published snapshots"
      stage = "clean-up"
      view  = "table"
      query = "filter message = \"published snapshot\" | stats latest(published_age_hours) as age_hours, latest(snapshot) as published by cache, architecture | sort age_hours desc"
    },
    {
      title = "Seconds of each step of a build"
      stage = "publish-snapshot"
      view  = "table"
      query = "filter message = \"step of the build\" | stats avg(seconds) as average, max(seconds) as maximum, count(*) as builds by stage, waited_for | sort average desc"
    },
    {
      title = "Bytes pulled, compressed"
      stage = "pull-images"
      view  = "timeSeries"
      query = "filter message = \"images verified\" | stats sum(pulled_bytes) by bin(1d)"
    },
    {
      title = "Used bytes of the newest snapshots"
      stage = "publish-snapshot"
      view  = "table"
      query = "filter message = \"snapshot published\" | stats latest(used_bytes) as bytes, latest(used_percent) as percent by span.cache, span.architecture | sort percent desc"
    },
    {
      title = "Orphans that the sweep removed"
      stage = "clean-up"
      view  = "timeSeries"
      query = "filter message = \"the sweep removed orphans\" | stats sum(orphans) by bin(1d)"
    },
  ]

  dashboard_widgets = concat(
    [
      for widget in local.dashboard_metrics : {
        type       = "metric"
        properties = jsonencode(merge(widget, { region = local.region, view = "timeSeries", stacked = false }))
      }
    ],
    [
      for widget in local.dashboard_queries : {
        type = "log"
        properties = jsonencode({
          title  = widget.title
          view   = widget.view
          region = local.region
          query  = "SOURCE '/aws/lambda/${var.name}-${widget.stage}' | ${widget.query}"
        })
      }
    ],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.dashboard ? 1 : 0

  dashboard_name = local.dashboard_name
  dashboard_body = jsonencode({
    start = "-P7D"
    # Three in a row of the grid with 24 columns. The properties are text, because Terraform's lists have one type.
    widgets = [
      for position, widget in local.dashboard_widgets : {
        type       = widget.type
        x          = position % 3 * 8
        y          = floor(position / 3) * 6
        width      = 8
        height     = 6
        properties = jsondecode(widget.properties)
      }
    ]
  })
}
