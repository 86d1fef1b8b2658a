# The dashboard. These tests need no AWS account. An end-to-end test looks for the fields of its queries in real logs.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  functions_directory = "tests/functions"
  security_group_ids  = ["sg-0123456789abcdef0"]
  caches              = { web = { images = ["public.ecr.aws/nginx/nginx:1.27"], variant = "aws-k8s-1.33" } }
  dashboard           = true
}

run "dashboard_is_off_by_default" {
  command = plan

  variables {
    dashboard = null
  }

  assert {
    condition     = length(aws_cloudwatch_dashboard.this) == 0 && output.dashboard_url == null
    error_message = "There is a dashboard."
  }
}

run "dashboard_is_a_grid_of_widgets" {
  command = plan

  assert {
    condition = alltrue([
      for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets :
      contains(["log", "metric"], widget.type) && widget.x + widget.width <= 24 && widget.properties.region == "eu-west-1"
    ])
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }

  assert {
    condition = length(distinct([
      for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : "${widget.x} ${widget.y}"
    ])) == 9
    error_message = "Two widgets have the same place."
  }

  assert {
    condition     = output.dashboard_url == "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/prepull-eu-west-1"
    error_message = output.dashboard_url
  }
}

run "queries_read_logs_of_the_module" {
  command = plan

  variables {
    name = "cache"
  }

  assert {
    condition = length(setsubtract(
      [for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : regex("SOURCE '([^']+)'", widget.properties.query)[0] if widget.type == "log"],
      values(output.log_group_names),
    )) == 0
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }
}

# CloudWatch's free tier has dashboards with at most 50 metrics.
run "dashboard_fits_into_the_free_tier" {
  command = plan

  assert {
    condition     = sum([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : length(widget.properties.metrics) if widget.type == "metric"]) <= 50
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }
}
